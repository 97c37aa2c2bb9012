// SPDX-License-Identifier: MIT
import java.nio.file.Files;
import java.nio.file.Path;

class Device {
	public static void main(String[] arguments) throws Exception {
		Path device = Path.of(arguments[0]);
		System.out.println("java " + Files.readString(device.resolve("vendor")).trim() + " "
			+ device.resolve("iommu_group").toRealPath().getFileName());
	}
}
