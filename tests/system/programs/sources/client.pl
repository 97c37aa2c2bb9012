# SPDX-License-Identifier: MIT
# A VFIO client in Perl: the API's version, and whether a group is viable.
use strict;
use warnings;
use Fcntl;

my $group = shift;
sysopen(my $container, "/dev/vfio/vfio", O_RDWR) or die "vfio: $!";
my $version = ioctl($container, 0x3b64, 0) or die "VFIO_GET_API_VERSION: $!";
print "api ", $version + 0, "\n";
sysopen(my $file, "/dev/vfio/$group", O_RDWR) or die "group: $!";
my $status = pack("LL", 8, 0);
ioctl($file, 0x3b67, $status) or die "VFIO_GROUP_GET_STATUS: $!";
print "viable ", (unpack("LL", $status))[1] & 1, "\n";
