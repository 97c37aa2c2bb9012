// SPDX-License-Identifier: MIT
// The file system as C++ sees it, by many threads at once.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <vector>

namespace fs = std::filesystem;

static int count_links()
{
	int links = 0;

	for (int i = 0; i < 100; i++)
		for (const auto &entry : fs::directory_iterator("/sys/class/net"))
			links += entry.is_symlink();
	return links;
}

int main()
{
	std::error_code error;
	std::vector<std::future<int>> threads;

	for (const char *path : { "/sys/class/net/lo", "/sys/nope", "/dev/null", "/sys/../etc" })
		std::cout << path << ' ' << (int)fs::status(path, error).type() << ' ' << fs::canonical(path, error)
			  << error << '\n';
	fs::create_directories("vfio/sys/dev");
	std::ofstream("vfio/sys/f") << "hello";
	fs::copy("vfio", "copy", fs::copy_options::recursive);
	std::cout << fs::file_size("copy/sys/f") << fs::remove_all("copy") << '\n';
	fs::current_path("/sys/class/net/lo");
	std::cout << fs::current_path() << std::ifstream("operstate").rdbuf();
	for (int i = 0; i < 8; i++)
		threads.push_back(std::async(std::launch::async, count_links));
	for (auto &thread : threads)
		std::cout << thread.get() << ' ';
}
