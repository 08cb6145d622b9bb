// The way between workers and shards in a simulation: messages as the real codec encodes them, which are delivered when the
// scheduler says so, and meanwhile may be lost, repeated, delayed, overtaken and cut. What arrives is decoded by the real codec.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/status.h"
#include "ps/wire/message.h"

namespace gatemill::ps {

// Of a message: how likely, 0 to 1.
struct NetworkFaults {
  double drop = 0.0;
  double repeat = 0.0;
  double delay = 0.0;     // by up to longest_delay_ns
  double overtake = 0.0;  // it passes those sent before it on the same way
  double cut = 0.0;       // header or frame cut short, a frame lost, or a header of noise
  double refuse = 0.0;    // the queue is full
  std::int64_t longest_delay_ns = 0;
};

// How often each happened.
struct NetworkCounts {
  std::uint64_t delivered = 0;
  std::uint64_t dropped = 0;
  std::uint64_t repeated = 0;
  std::uint64_t delayed = 0;
  std::uint64_t overtaken = 0;
  std::uint64_t cut = 0;
  std::uint64_t refused = 0;
};

// A request's way is from a worker of an incarnation to a shard, a reply's the same one back.
struct Way {
  std::uint32_t incarnation = 0;
  std::uint32_t worker = 0;
  std::uint32_t shard = 0;
  bool back = false;
  bool operator==(const Way&) const = default;
};

class Network {
 public:
  explicit Network(RandomStream* random) : random_(random) {}

  void SetFaults(const NetworkFaults& faults) { faults_ = faults; }
  // kUnavailable when the queue is full; kInvalidInput for what cannot be encoded.
  Status Send(const Way& way, const Request& request, std::int64_t now_ns);
  Status Send(const Way& way, const Reply& reply, std::int64_t now_ns);

  [[nodiscard]] bool HasReady(std::int64_t now_ns) const;
  // When the next one is; none: nothing is on its way.
  [[nodiscard]] std::optional<std::int64_t> NextReadyNs() const;

  struct Delivered {
    Way way;
    bool cut = false;
    std::optional<Request> request;  // one of the two, or none: not even its header could be read, or it was lost
    std::optional<Reply> reply;
    std::optional<Reply> error;      // what the receiver of a damaged request answers
    std::string what;                // for a trace
    std::string defect;              // the codec took what it should have refused
  };
  // One that is ready.
  Delivered Deliver(std::int64_t now_ns);

  // Everything that is on its way to the workers is lost with their connections; requests, by chance, are not.
  void CutConnections();
  [[nodiscard]] const NetworkCounts& counts() const { return counts_; }

 private:
  struct Message {
    Way way;
    std::int64_t ready_ns = 0;
    std::vector<std::byte> header;
    std::vector<std::vector<std::byte>> frames;
    std::string what;
  };

  template <typename T>
  Status SendMessage(const Way& way, const T& message, std::string what, std::int64_t now_ns);
  [[nodiscard]] bool Happens(double likely) { return likely > 0.0 && random_->Uniform() < likely; }
  std::int64_t DrawReadyNs(std::int64_t now_ns);
  void Cut(Message* message);
  Delivered Decode(const Message& message, bool cut);

  RandomStream* random_;
  NetworkFaults faults_;
  NetworkCounts counts_;
  std::vector<Message> on_way_;  // in the order they were sent
};

}  // namespace gatemill::ps
