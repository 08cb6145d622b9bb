// A disk that is full soon: a file system in memory of a few MiB, mounted on a directory. Without the right to mount there is none.
// Thread safety: none.
#pragma once

#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

namespace gatemill {

class SmallDisk {
 public:
  SmallDisk(std::string path, int mib) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
    const std::string size = "size=" + std::to_string(mib) + "m";
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, size.c_str()) == 0;
    if (!mounted_) why_ = std::strerror(errno);
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  [[nodiscard]] bool mounted() const { return mounted_; }
  [[nodiscard]] const std::string& why() const { return why_; }  // it is not mounted
  [[nodiscard]] const std::string& path() const { return path_; }
  // Leaves about `free_kib` free; Empty undoes it.
  void Fill(std::uint64_t free_kib) const {
    const std::uint64_t free = std::filesystem::space(path_).available;
    std::ofstream(path_ + "/filler", std::ios::binary) << std::string(free - std::min(free, free_kib << 10), 'x');
  }
  void Empty() const { std::filesystem::remove(path_ + "/filler"); }

 private:
  std::string path_;
  bool mounted_ = false;
  std::string why_;
};

}  // namespace gatemill
