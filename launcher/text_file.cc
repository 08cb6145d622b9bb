#include "launcher/text_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace gatemill::launcher {
namespace {

constexpr std::size_t kWriteBytes = 1 << 20;

}  // namespace

TextFile::TextFile(std::string path, bool gzip)
    : path_(std::move(path)),
      temporary_(path_ + ".tmp"),
      file_(gzopen(temporary_.c_str(), gzip ? "wb1" : "wbT")) {  // T: as it is, not compressed
  buffer_.reserve(2 * kWriteBytes);
}

TextFile::~TextFile() {
  if (file_ != nullptr) gzclose(file_);
  if (!published_) ::unlink(temporary_.c_str());
}

Status TextFile::EndLine() {
  buffer_.push_back('\n');
  return buffer_.size() < kWriteBytes ? Ok() : Flush();
}

Status TextFile::Close() {
  GM_RETURN_IF_ERROR(Flush());
  return gzclose(std::exchange(file_, nullptr)) == Z_OK ? Ok() : Failure();
}

Status TextFile::Publish() {
  published_ = ::rename(temporary_.c_str(), path_.c_str()) == 0;
  return published_ ? Ok() : Failure();
}

Status TextFile::Failure() const { return Internal(path_ + ": cannot write: " + std::strerror(errno) + "; is the disk full?"); }

Status TextFile::Flush() {
  if (file_ == nullptr) return Failure();
  const auto size = static_cast<unsigned>(buffer_.size());
  if (size > 0 && gzwrite(file_, buffer_.data(), size) != static_cast<int>(size)) return Failure();
  buffer_.clear();
  return Ok();
}

}  // namespace gatemill::launcher
