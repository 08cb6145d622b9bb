#include "tests/ps/simulation/faulty_file_system.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>

#include "common/random.h"

namespace gatemill::ps {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus DiskError(const std::string& path) { return IOStatus::IOError(path, std::strerror(EIO)); }

// What all files share.
class Disk {
 public:
  explicit Disk(std::uint64_t seed) : random_(seed, 9) {}

  void SetFaults(const FileFaults& faults) {
    const std::lock_guard lock(mutex_);
    likely_ = faults;
  }
  [[nodiscard]] std::uint64_t faults() const {
    const std::lock_guard lock(mutex_);
    return faults_;
  }
  // path: of the file that is to have it.
  bool Happens(double FileFaults::* fault, const std::string& path) {
    const std::lock_guard lock(mutex_);
    if (path.find(likely_.of) == std::string::npos) return false;
    const bool happens = likely_.*fault > 0.0 && random_.Uniform() < likely_.*fault;
    faults_ += happens ? 1 : 0;
    return happens;
  }
  std::uint64_t Below(std::uint64_t n) {
    const std::lock_guard lock(mutex_);
    return random_.Below(n);
  }
  void NoteSynced(ino_t file, std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    synced_[file] = bytes;
  }
  void LosePower(const std::string& dir) {
    const std::lock_guard lock(mutex_);
    std::error_code error;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir, error)) {
      struct stat file {};
      if (!entry.is_regular_file() || ::stat(entry.path().c_str(), &file) != 0) continue;
      const auto synced = synced_.find(file.st_ino);
      if (synced == synced_.end() || static_cast<std::uint64_t>(file.st_size) <= synced->second) continue;
      std::filesystem::resize_file(entry.path(), synced->second, error);
    }
  }

 private:
  mutable std::mutex mutex_;
  RandomStream random_;  // guarded by mutex_, as is all that follows
  FileFaults likely_;
  std::uint64_t faults_ = 0;
  std::map<ino_t, std::uint64_t> synced_;  // bytes of files that were begun here
};

class FaultyWritable final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FaultyWritable(std::unique_ptr<rocksdb::FSWritableFile> file, std::string path, std::shared_ptr<Disk> disk)
      : FSWritableFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(std::move(disk)) {
    struct stat file_status {};
    if (::stat(path_.c_str(), &file_status) == 0) inode_ = file_status.st_ino;
    disk_->NoteSynced(inode_, 0);
  }

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::write_error, path_)) return DiskError(path_);
    if (disk_->Happens(&FileFaults::no_space, path_)) {
      if (!data.empty()) (void)target()->Append(Slice(data.data(), disk_->Below(data.size())), options, dbg);
      return IOStatus::NoSpace(path_, std::strerror(ENOSPC));
    }
    const IOStatus status = target()->Append(data, options, dbg);
    if (status.ok()) written_ += data.size();
    return status;
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo& /*info*/,
                  IODebugContext* dbg) override {
    return Append(data, options, dbg);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::write_error, path_)) return DiskError(path_);
    return Synced(target()->Sync(options, dbg));
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::write_error, path_)) return DiskError(path_);
    return Synced(target()->Fsync(options, dbg));
  }

 private:
  IOStatus Synced(const IOStatus& status) {
    if (status.ok()) disk_->NoteSynced(inode_, written_);
    return status;
  }
  std::string path_;
  std::shared_ptr<Disk> disk_;
  ino_t inode_ = 0;
  std::uint64_t written_ = 0;
};

// A flipped bit in *result, which then is in scratch.
void Flip(Disk* disk, const std::string& path, Slice* result, char* scratch) {
  if (result->empty() || scratch == nullptr || !disk->Happens(&FileFaults::flipped_bit, path)) return;
  if (result->data() != scratch) std::memmove(scratch, result->data(), result->size());
  const std::uint64_t at = disk->Below(result->size());
  scratch[at] = static_cast<char>(scratch[at] ^ (1 << disk->Below(8)));
  *result = Slice(scratch, result->size());
}

class FaultyRandomAccess final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  FaultyRandomAccess(std::unique_ptr<rocksdb::FSRandomAccessFile> file, std::string path, std::shared_ptr<Disk> disk)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(std::move(disk)) {}
  IOStatus Read(std::uint64_t offset, std::size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override {
    if (disk_->Happens(&FileFaults::read_error, path_)) return DiskError(path_);
    const IOStatus status = target()->Read(offset, n, options, result, scratch, dbg);
    if (status.ok()) Flip(disk_.get(), path_, result, scratch);
    return status;
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, std::size_t n, const IOOptions& options, IODebugContext* dbg) override {
    return FSRandomAccessFile::MultiRead(requests, n, options, dbg);  // one Read after the other
  }

 private:
  std::string path_;
  std::shared_ptr<Disk> disk_;
};

class FaultySequential final : public rocksdb::FSSequentialFileOwnerWrapper {
 public:
  FaultySequential(std::unique_ptr<rocksdb::FSSequentialFile> file, std::string path, std::shared_ptr<Disk> disk)
      : FSSequentialFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(std::move(disk)) {}
  IOStatus Read(std::size_t n, const IOOptions& options, Slice* result, char* scratch, IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::read_error, path_)) return DiskError(path_);
    const IOStatus status = target()->Read(n, options, result, scratch, dbg);
    if (status.ok()) Flip(disk_.get(), path_, result, scratch);
    return status;
  }

 private:
  std::string path_;
  std::shared_ptr<Disk> disk_;
};

class SeededFileSystem final : public FaultyFileSystem {
 public:
  explicit SeededFileSystem(std::uint64_t seed)
      : FaultyFileSystem(rocksdb::FileSystem::Default()), disk_(std::make_shared<Disk>(seed)) {}
  [[nodiscard]] const char* Name() const override { return "FaultyFileSystem"; }

  void SetFaults(const FileFaults& faults) override { disk_->SetFaults(faults); }
  [[nodiscard]] std::uint64_t faults() const override { return disk_->faults(); }
  void LosePower(const std::string& dir) override { disk_->LosePower(dir); }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options, std::unique_ptr<rocksdb::FSWritableFile>* file,
                           IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::no_space, path)) return IOStatus::NoSpace(path, std::strerror(ENOSPC));
    const IOStatus status = target()->NewWritableFile(path, options, file, dbg);
    if (status.ok()) *file = std::make_unique<FaultyWritable>(std::move(*file), path, disk_);
    return status;
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* file, IODebugContext* dbg) override {
    const IOStatus status = target()->NewRandomAccessFile(path, options, file, dbg);
    if (status.ok()) *file = std::make_unique<FaultyRandomAccess>(std::move(*file), path, disk_);
    return status;
  }
  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* file, IODebugContext* dbg) override {
    const IOStatus status = target()->NewSequentialFile(path, options, file, dbg);
    if (status.ok()) *file = std::make_unique<FaultySequential>(std::move(*file), path, disk_);
    return status;
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options, IODebugContext* dbg) override {
    if (disk_->Happens(&FileFaults::no_space, to)) return IOStatus::NoSpace(to, std::strerror(ENOSPC));
    return target()->LinkFile(from, to, options, dbg);
  }

 private:
  std::shared_ptr<Disk> disk_;
};

}  // namespace

std::shared_ptr<FaultyFileSystem> NewFaultyFileSystem(std::uint64_t seed) { return std::make_shared<SeededFileSystem>(seed); }

}  // namespace gatemill::ps
