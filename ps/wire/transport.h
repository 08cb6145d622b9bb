// How requests reach shards and replies come back. Three implementations, one conformance suite:
//   inproc  values move through a queue; nothing is serialized
//   ipc     ZeroMQ over a unix socket (a file in the run's private directory, removed at the end)
//   tcp     ZeroMQ over tcp, with CURVE when keys are given
//
// Server side: one Listener per shard thread, owned and polled by it.
// Client side: one Channel per worker thread, to all shards at once.
//
// Limits: kMaxMessageBytes a message, kHighWaterMark messages in flight a peer; beyond it Send fails with kUnavailable.
// Errors: kDeadline names the end points that did not answer. Malformed messages are answered with an error where the
// header could be read and dropped with a count where not; they never reach a shard. What comes over a socket from another
// job than Options::job is dropped with a count, malformed or not: strangers get no answer.
// Thread safety: a Listener and a Channel each belong to one thread; Wake may be called from any.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/shard.h"
#include "ps/wire/message.h"

namespace gatemill::ps {

inline constexpr int kHighWaterMark = 1024;

// A CURVE key pair, Z85 text as ZeroMQ has it (40 characters). Empty = no encryption.
struct CurveKeys {
  std::string public_key;
  std::string secret_key;
};
// kInternal when this ZeroMQ was built without CURVE.
Result<CurveKeys> NewCurveKeys();

// Whom a server lets in over CURVE.
struct AdmittedKey {
  std::string public_key;
  std::int64_t worker = -1;  // the worker this key stands for
  bool may_write = true;
};

struct Incoming {
  Peer from;
  Request request;
};

class Listener {
 public:
  virtual ~Listener() = default;
  // The next request, or nothing when timeout_ms passed or Wake was called.
  virtual Result<std::optional<Incoming>> Receive(int timeout_ms) = 0;
  virtual Status Send(OutgoingReply reply) = 0;
  virtual void Wake() = 0;
  // What a client connects to: "inproc:...", "ipc:///...", "tcp://host:port".
  [[nodiscard]] virtual const std::string& endpoint() const = 0;
  // Messages dropped because not even their header could be read, or because they are of another job.
  [[nodiscard]] virtual std::uint64_t malformed() const = 0;
};

class Channel {
 public:
  virtual ~Channel() = default;
  virtual Status Send(std::uint32_t shard, Request request) = 0;
  // The next reply from any shard, or nothing when timeout_ms passed.
  virtual Result<std::optional<Reply>> Receive(int timeout_ms) = 0;
  // Do requests stay in this process, so that a pull may carry a RowTarget?
  [[nodiscard]] virtual bool in_process() const = 0;
  // Of all messages sent and received, headers included; 0 when nothing is serialized.
  [[nodiscard]] virtual std::uint64_t wire_bytes() const = 0;
};

// Everything that the sockets of one process share (ZeroMQ's context and its ZAP handler). Outlives them.
class Transport {
 public:
  struct Options {
    CurveKeys keys;                      // this process's; empty = no CURVE
    std::vector<AdmittedKey> admitted;   // server side, with keys
    std::optional<std::uint64_t> job = {};  // server side: whose requests listeners on sockets take; none = any job's
  };
  static Result<std::unique_ptr<Transport>> Create(Options options);
  virtual ~Transport() = default;
  // `endpoint`: "inproc:NAME", "ipc:///path/of/socket", "tcp://ADDRESS:0" (a free port is taken; see endpoint()).
  virtual Result<std::unique_ptr<Listener>> Listen(const std::string& endpoint) = 0;
  // `endpoints[i]` is shard i's; server_keys[i] its public CURVE key, or all empty.
  virtual Result<std::unique_ptr<Channel>> Connect(const std::vector<std::string>& endpoints,
                                                   const std::vector<std::string>& server_keys) = 0;
  // Replaces the list of whom to let in; takes effect for connections made later.
  virtual void Admit(std::vector<AdmittedKey> admitted) = 0;
};

}  // namespace gatemill::ps
