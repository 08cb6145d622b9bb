#include "common/file.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <system_error>

namespace gatemill {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = 1 << 20;

Status SystemError(const std::string& what, const std::string& path, int error) {
  const std::string message = what + " " + path + ": " + std::strerror(error);
  if (error == ENOENT || error == ENOTDIR) return NotFound(message);
  return {error == EACCES || error == EROFS || error == EISDIR ? Code::kInvalidInput : Code::kInternal, message};
}

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

Status WriteAll(int fd, std::string_view contents, const std::string& path) {
  while (!contents.empty()) {
    const ssize_t written = ::write(fd, contents.data(), contents.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return SystemError("cannot write", path, errno);
    }
    contents.remove_prefix(static_cast<std::size_t>(written));
  }
  return Ok();
}

// Reads the file in blocks and hands each to `take`.
template <typename Take>
Status ReadBlocks(const std::string& path, const Take& take) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return SystemError("cannot open", path, errno);
  std::string block(kBlockBytes, '\0');
  while (true) {
    const ssize_t got = ::read(file.get(), block.data(), block.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      return SystemError("cannot read", path, errno);
    }
    if (got == 0) return Ok();
    take(std::string_view(block.data(), static_cast<std::size_t>(got)));
  }
}

}  // namespace

Result<std::string> ReadFile(const std::string& path) {
  std::string contents;
  GM_RETURN_IF_ERROR(ReadBlocks(path, [&](std::string_view block) { contents.append(block); }));
  return contents;
}

Status WriteFileAtomic(const std::string& path, std::string_view contents) {
  const std::string temporary = path + ".tmp";
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (file.get() < 0) return SystemError("cannot create", temporary, errno);
    Status written = WriteAll(file.get(), contents, temporary);
    if (written.ok() && ::fsync(file.get()) != 0) written = SystemError("cannot fsync", temporary, errno);
    if (!written.ok()) {
      ::unlink(temporary.c_str());
      return written;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const Status failed = SystemError("cannot rename to", path, errno);
    ::unlink(temporary.c_str());
    return failed;
  }
  return SyncDir(fs::path(path).parent_path().string());
}

// A link appears at once and never takes the place of another, unlike a rename.
Result<bool> WriteNewFile(const std::string& path, std::string_view contents) {
  // mkostemp would make a file with rights of its own choice, whatever the umask.
  std::random_device random;
  const std::string temporary = path + "." + std::to_string(random()) + std::to_string(random());
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (file.get() < 0) return SystemError("cannot create", temporary, errno);
    Status written = WriteAll(file.get(), contents, temporary);
    if (written.ok() && ::fsync(file.get()) != 0) written = SystemError("cannot fsync", temporary, errno);
    if (!written.ok()) {
      ::unlink(temporary.c_str());
      return written;
    }
  }
  const int error = ::link(temporary.c_str(), path.c_str()) == 0 ? 0 : errno;
  ::unlink(temporary.c_str());
  if (error == EEXIST) return false;
  if (error != 0) return SystemError("cannot write", path, error);
  GM_RETURN_IF_ERROR(SyncDir(fs::path(path).parent_path().string()));
  return true;
}

Status SyncDir(const std::string& path) {
  const Descriptor directory(::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return SystemError("cannot open", path, errno);
  if (::fsync(directory.get()) != 0) return SystemError("cannot fsync", path, errno);
  return Ok();
}

Status RenameOver(const std::string& from, const std::string& to) {
  int error = 0;
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) error = errno;
  if (error == EINVAL || error == ENOSYS) {  // a file system that cannot exchange
    std::error_code removed;
    fs::remove_all(to, removed);
  }
  if (error != 0 && ::rename(from.c_str(), to.c_str()) != 0) return SystemError("cannot rename to", to, errno);
  return SyncDir(fs::path(to).parent_path().string());
}

Status MakeDirs(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return SystemError("cannot create the directory", path, error.value());
  return Ok();
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return SystemError("cannot remove", path, error.value());
  return Ok();
}

bool FileExists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

Result<std::uint64_t> FileSize(const std::string& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) return SystemError("cannot read the size of", path, error.value());
  return static_cast<std::uint64_t>(size);
}

std::uint64_t Checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Result<std::uint64_t> FileChecksum(const std::string& path) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  if (!state || XXH3_64bits_reset(state.get()) != XXH_OK) return Internal("out of memory for a checksum");
  GM_RETURN_IF_ERROR(ReadBlocks(
      path, [&](std::string_view block) { XXH3_64bits_update(state.get(), block.data(), block.size()); }));
  return static_cast<std::uint64_t>(XXH3_64bits_digest(state.get()));
}

Result<std::vector<std::string>> ListDir(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) return SystemError("cannot list", path, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<std::string>> ListTree(const std::string& path) {
  std::error_code error;
  std::vector<std::string> files;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error)) files.push_back(fs::relative(it->path(), path, error).string());
  }
  if (error) return SystemError("cannot list", path, error.value());
  std::sort(files.begin(), files.end());
  return files;
}

Result<std::vector<std::string>> Glob(const std::string& pattern) {
  glob_t found{};
  const int code = ::glob(pattern.c_str(), 0, nullptr, &found);
  const std::unique_ptr<glob_t, void (*)(glob_t*)> release(&found, ::globfree);
  if (code == GLOB_NOMATCH) return NotFound("no such file: " + pattern);
  if (code != 0) return Internal("cannot list " + pattern);
  return std::vector<std::string>(found.gl_pathv, found.gl_pathv + found.gl_pathc);
}

bool MatchesPattern(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

Status CheckOutputFile(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const std::string dir = parent.empty() ? "." : parent.string();
  std::error_code error;
  if (path.empty() || fs::is_directory(path, error)) return InvalidInput("\"" + path + "\" is no name for a file");
  if (!fs::is_directory(dir, error)) return InvalidInput("cannot write " + path + ": there is no directory " + dir);
  if (::access(dir.c_str(), W_OK | X_OK) != 0) {
    return InvalidInput("cannot write " + path + ": no permission to write into " + dir);
  }
  return Ok();
}

Status CheckDirCanBe(const std::string& path) {
  std::error_code error;
  fs::path there = fs::absolute(path, error);
  while (!error && !fs::exists(fs::status(there, error)) && there.has_relative_path()) {
    error.clear();  // it may be below a file, which the loop comes to
    there = there.parent_path();
  }
  if (fs::is_directory(there, error) && ::access(there.c_str(), W_OK | X_OK) == 0) return Ok();
  return InvalidInput("cannot make the directory " + path + ": " + there.string() +
                      (fs::is_directory(there, error) ? " cannot be written to" : " is no directory"));
}

Result<std::string> NewScratchDir(const std::string& parent) {
  std::error_code error;
  const std::string dir = parent.empty() ? fs::temp_directory_path(error).string() : parent;
  if (error) return InvalidInput("there is no directory for temporary files: " + error.message() + "; set TMPDIR to one");
  GM_RETURN_IF_ERROR(CheckWritableDir(dir));
  std::string pattern = dir + "/gatemill-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) {
    return InvalidInput("cannot create a directory in " + dir + ": " + std::strerror(errno));
  }
  return pattern;
}

namespace {

class FlockFile final : public FileLock {
 public:
  explicit FlockFile(int fd) : file_(fd) {}
  [[nodiscard]] int get() const { return file_.get(); }

 private:
  Descriptor file_;
};

}  // namespace

Result<std::unique_ptr<FileLock>> LockFile(const std::string& path) {
  auto lock = std::make_unique<FlockFile>(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock->get() < 0) return SystemError("cannot create", path, errno);
  if (::flock(lock->get(), LOCK_EX | LOCK_NB) == 0) return std::unique_ptr<FileLock>(std::move(lock));
  if (errno == EWOULDBLOCK) return Unavailable(path + " is locked by another process");
  return SystemError("cannot lock", path, errno);
}

Status CheckWritableDir(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return InvalidInput("cannot create the directory " + path + ": " + error.message());
  const std::string probe = path + "/.write-probe";
  const Descriptor file(::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.get() < 0) return InvalidInput("cannot write into " + path + ": " + std::strerror(errno));
  ::unlink(probe.c_str());
  return Ok();
}

}  // namespace gatemill
