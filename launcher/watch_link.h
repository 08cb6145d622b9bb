// One connection of the watch: small frames over a non-blocking tcp socket; and the bytes by which its ends know each other.
//
// Errors: a link that is closed, broken or speaks nonsense is dead; its owner decides what that means.
// Thread safety: one thread per object.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace gatemill::launcher {

// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_ = -1;
};

enum class FrameType : std::uint32_t {
  kHello = 1,  // a rank's first frame; text: the job's token. launch answers its own the same way
  kEverybody,  // rank 0: all ranks are connected; text: rank 0's name
  kBeat,       // I am alive
  kScratch,    // text: a directory of `rank` that must not outlive the job
  kLeave,      // a worker is done with the servers
  kAllLeft,    // rank 0: all workers are
  kBye,        // a rank is done
  kAllBye,     // rank 0: all ranks are
  kEnd,        // the job must end with exit code `value`; text: why
};

struct Frame {
  FrameType type = FrameType::kBeat;
  int rank = 0;  // whom it is about
  int value = 0;
  std::string text;  // at most kMaxFrameText bytes; longer text is cut
};
inline constexpr std::size_t kMaxFrameText = 8192;
// Connections whose other end has not shown the job's token; the oldest goes when there are more, after it was heard.
inline constexpr std::size_t kMaxStrangers = 64;

class Link {
 public:
  explicit Link(Descriptor socket) : socket_(std::move(socket)) {}

  // Sends what the socket takes now and keeps the rest for Flush.
  void Send(const Frame& frame);
  void Flush();
  // What came in since the last call, in order, kMaxReadBytes at most: a peer that never stops sending takes neither the
  // thread nor memory. What came before a link died is still delivered.
  static constexpr std::size_t kMaxReadBytes = 65536;
  std::vector<Frame> Read();

  [[nodiscard]] bool alive() const { return alive_; }
  [[nodiscard]] bool has_output() const { return alive_ && !output_.empty(); }
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  void Fill();

  Descriptor socket_;
  bool alive_ = true;
  std::string input_;
  std::string output_;
};

// `address`: a numeric address. Port 0 takes a free port; *port is the one taken.
Result<Descriptor> ListenTcp(const std::string& address, int* port);
Result<Descriptor> ConnectTcp(const std::string& address, int port, int deadline_ms);

// Bytes that nobody can guess.
Result<std::string> RandomBytes(std::size_t count);

}  // namespace gatemill::launcher
