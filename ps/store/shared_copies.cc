#include "ps/store/shared_copies.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/file.h"

namespace gatemill::ps {
namespace {

constexpr std::size_t kBufferBytes = 1U << 20;

Status Failed(const std::string& path) {
  const bool full = errno == ENOSPC || errno == EDQUOT;
  return Internal("row store " + path + ": " + std::strerror(errno) + (full ? "; free disk space" : ""));
}

class OpenFile {
 public:
  OpenFile(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  [[nodiscard]] int fd() const { return fd_; }

 private:
  const int fd_;
};

Status WriteAll(const OpenFile& file, const char* bytes, std::size_t count, const std::string& path) {
  while (count > 0) {
    const ssize_t written = ::write(file.fd(), bytes, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed(path);
    bytes += written;
    count -= static_cast<std::size_t>(written);
  }
  return Ok();
}

Status Copy(const FileToCopy& file, const std::string& to, const SharedCopies::VisitCopied& copied) {
  const OpenFile output(to, O_WRONLY | O_CREAT | O_EXCL);
  if (output.fd() < 0) return Failed(to);
  if (file.contents) {
    GM_RETURN_IF_ERROR(WriteAll(output, file.contents->data(), file.contents->size(), to));
    return ::fsync(output.fd()) == 0 ? Ok() : Failed(to);
  }
  const OpenFile input(file.from, O_RDONLY);
  if (input.fd() < 0) return Failed(file.from);
  std::vector<char> buffer(std::min<std::uint64_t>(kBufferBytes, std::max<std::uint64_t>(file.bytes, 1)));
  for (std::uint64_t left = file.bytes; left > 0;) {
    const ssize_t got = ::read(input.fd(), buffer.data(), std::min<std::uint64_t>(left, buffer.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed(file.from);
    if (got == 0) {
      return DataLoss("row store " + file.from + ": the file ends " + std::to_string(left) + " bytes too early; use another checkpoint");
    }
    GM_RETURN_IF_ERROR(WriteAll(output, buffer.data(), static_cast<std::size_t>(got), to));
    left -= static_cast<std::uint64_t>(got);
    if (copied) GM_RETURN_IF_ERROR(copied(static_cast<std::uint64_t>(got)));
  }
  return ::fsync(output.fd()) == 0 ? Ok() : Failed(to);
}

}  // namespace

bool SharedCopies::LinkToLast(const FileToCopy& file, const std::string& to) const {
  if (!file.immutable || last_ == nullptr) return false;
  struct stat status {};
  if (::fstatat(::dirfd(last_.get()), file.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != file.bytes) return false;
  if (::linkat(::dirfd(last_.get()), file.name.c_str(), AT_FDCWD, to.c_str(), 0) == 0) return true;
  (void)::unlink(to.c_str());  // over NFS one that was made may be called a failure
  return false;
}

Status SharedCopies::WriteFiles(std::span<const FileToCopy> files, const std::string& dir, const VisitCopied& copied) const {
  for (const FileToCopy& file : files) {
    const std::string to = dir + "/" + file.name;
    if (!LinkToLast(file, to)) GM_RETURN_IF_ERROR(Copy(file, to, copied));
  }
  return SyncDir(dir);
}

Status SharedCopies::Write(std::span<const FileToCopy> files, const std::string& dir, const VisitCopied& copied) {
  if (::mkdir(dir.c_str(), 0755) != 0) return Failed(dir);
  const Status written = WriteFiles(files, dir, copied);
  if (!written.ok()) {
    (void)RemoveTree(dir);
    return written;
  }
  last_.reset(::opendir(dir.c_str()));  // without it the next one shares nothing
  return Ok();
}

}  // namespace gatemill::ps
