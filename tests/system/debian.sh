# SPDX-License-Identifier: MIT
# Debian packages without root: functions for the scripts that fetch what a suite runs and the project does not have.
#
# apt does the work, in a root of its own: it takes the mirror that this system's apt is configured for, resolves
# dependencies as if nothing were installed (what is fetched brings its own libc), and checks signatures against Debian's
# archive keys. Not on Debian: set VFIOEMU_DEBIAN_MIRROR, and have apt, dpkg-deb and debian-archive-keyring.
#
# Whoever sources this has set $cache, the folder of the suite.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

missing() {
	echo "${0##*/}: $1" >&2
	exit 77
}

# The mirror of Debian's main archive that apt is configured for; apt knows a source's origin once it has its lists.
mirror() {
	if [[ -n ${VFIOEMU_DEBIAN_MIRROR:-} ]]; then
		echo "${VFIOEMU_DEBIAN_MIRROR%/}"
		return
	fi
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; exit }
			$NF ~ /\/debian\/?$/ { guess = $NF } END { if (guess) print guess }' | head -n 1 | sed 's:/$::'
}

# apt of another release: apt_of SUITE COMMAND...
apt_of() {
	local root=$cache/apt/$1 program=$2
	shift 2
	APT_CONFIG=$root/apt.conf "$program" -qq "$@"
}

# Make the apt root of a release, with its backports if they are asked for, and read its lists: prepare SUITE [backports]
prepare() {
	local suite=$1 root=$cache/apt/$1 uri
	uri=$(mirror)
	[[ -n $uri ]] || missing "no Debian mirror in apt's sources: set VFIOEMU_DEBIAN_MIRROR"
	mkdir -p "$root"/{etc/{apt.conf.d,preferences.d,sources.list.d},state/lists/partial,cache/archives/partial,log}
	: >"$root/status"
	{
		echo "deb [signed-by=$keyring] $uri $suite main"
		[[ -z ${2:-} ]] || echo "deb [signed-by=$keyring] $uri $suite-backports main"
	} >"$root/etc/sources.list"
	cat >"$root/apt.conf" <<-END
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Dir::Etc "$root/etc";
		Dir::Etc::SourceList "$root/etc/sources.list";
		Dir::Etc::SourceParts "$root/etc/sources.list.d";
		Dir::Etc::Preferences "$root/etc/preferences";
		Dir::State "$root/state";
		Dir::State::status "$root/status";
		Dir::Cache "$root/cache";
		Dir::Log "$root/log";
		Debug::NoLocking "true";
	END
	apt_of "$suite" apt-get update
}

# Download packages and all that they depend on, and unpack them: unpack SUITE[/backports] FOLDER PACKAGE...
unpack() {
	local suite=${1%%/*} folder=$2 archives debs
	archives=$cache/apt/$suite/cache/archives
	local -a target=()
	[[ $1 == "$suite" ]] || target=(--target-release "$suite-backports")
	shift 2
	rm -f "$archives"/*.deb
	apt_of "$suite" apt-get install --yes --download-only "${target[@]}" "$@"
	install_into "$folder" "$archives"/*.deb
}

# install_into FOLDER DEB...: FOLDER appears when it is complete.
#
# Debian 12's packages still have files in /bin and /lib, which are links into /usr on its systems.
install_into() {
	local folder=$cache/$1 deb name
	shift
	rm -rf "$folder" "$folder.new"
	for name in bin sbin lib lib64; do
		mkdir -p "$folder.new/root/usr/$name"
		ln -s "usr/$name" "$folder.new/root/$name"
	done
	for deb in "$@"; do
		dpkg-deb --fsys-tarfile "$deb" | tar --extract --keep-directory-symlink --directory "$folder.new/root"
		dpkg-deb --showformat '${Package} ${Version}\n' --show "$deb" >>"$folder.new/packages"
		rm "$deb"
	done
	mv "$folder.new" "$folder"
}

# What these functions need; then the folder, for us alone as long as the script runs.
begin() {
	command -v apt-get >/dev/null || missing "apt-get is not here"
	command -v dpkg-deb >/dev/null || missing "dpkg-deb is not here"
	[[ -e $keyring ]] || missing "$keyring is not here (apt install debian-archive-keyring)"
	[[ $(uname -m) == x86_64 ]] || missing "what is fetched is for x86-64"
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock 9
}
