// SPDX-License-Identifier: MIT
// A VFIO client in Rust: std::fs, and ioctl() of libc.
use std::fs::{read_to_string, OpenOptions};
use std::os::raw::{c_int, c_ulong};
use std::os::unix::fs::FileExt;
use std::os::unix::io::{AsRawFd, FromRawFd};

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments[2].rsplit('/').next().unwrap().to_string() + "\0";
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let container = open("/dev/vfio/vfio");
    let group = open(&format!("/dev/vfio/{}", arguments[1]));
    let fd = container.as_raw_fd();
    unsafe {
        println!("api {}", ioctl(fd, 0x3b64)); // VFIO_GET_API_VERSION
        assert_eq!(ioctl(group.as_raw_fd(), 0x3b68, &fd as *const c_int), 0); // VFIO_GROUP_SET_CONTAINER
        assert_eq!(ioctl(fd, 0x3b66, 3 as c_ulong), 0); // VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU
        let device = ioctl(group.as_raw_fd(), 0x3b6a, name.as_ptr()); // VFIO_GROUP_GET_DEVICE_FD
        println!("device {}", (device >= 0) as u8);
        let device = std::fs::File::from_raw_fd(device);
        let mut vendor = [0u8; 2];
        device.read_exact_at(&mut vendor, 7 << 40).unwrap(); // VFIO_PCI_CONFIG_REGION_INDEX
        println!("vendor {:x}", u16::from_le_bytes(vendor));
    }
    println!("{}", read_to_string(format!("{}/vendor", arguments[2])).unwrap().trim());
}
