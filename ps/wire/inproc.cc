#include "ps/wire/inproc.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "ps/wire/codec.h"

namespace gatemill::ps {
namespace {

// What has arrived for one receiver, at most kHighWaterMark of each sender.
template <typename T>
class Mailbox {
 public:
  // False when the sender's share is full.
  bool Put(std::uint64_t sender, T value) {
    {
      const std::lock_guard lock(mutex_);
      int& waiting = waiting_[sender];
      if (waiting >= kHighWaterMark) return false;
      ++waiting;
      queue_.push_back({sender, std::move(value)});
    }
    arrived_.notify_one();
    return true;
  }

  std::optional<T> Take(int timeout_ms) {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return woken_ || !queue_.empty(); });
    woken_ = false;
    if (queue_.empty()) return std::nullopt;
    Letter letter = std::move(queue_.front());
    queue_.pop_front();
    const auto waiting = waiting_.find(letter.sender);
    if (--waiting->second == 0) waiting_.erase(waiting);
    return std::move(letter.value);
  }

  void Wake() {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    arrived_.notify_one();
  }

 private:
  struct Letter {
    std::uint64_t sender;
    T value;
  };
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Letter> queue_;                        // guarded by mutex_
  std::unordered_map<std::uint64_t, int> waiting_;  // letters in queue_ by sender; guarded by mutex_
  bool woken_ = false;                              // guarded by mutex_
};

using RequestBox = Mailbox<Incoming>;
using ReplyBox = Mailbox<Reply>;

}  // namespace

struct InprocNetwork::Names {
  std::mutex mutex;
  std::unordered_map<std::string, std::shared_ptr<RequestBox>> listeners;     // by end point; guarded by mutex
  std::unordered_map<std::uint64_t, std::shared_ptr<ReplyBox>> channels;      // by route; guarded by mutex
  std::uint64_t next_id = 1;                                                  // of routes and listeners; guarded by mutex

  std::shared_ptr<RequestBox> FindListener(const std::string& endpoint) {
    const std::lock_guard lock(mutex);
    const auto found = listeners.find(endpoint);
    return found == listeners.end() ? nullptr : found->second;
  }
  std::shared_ptr<ReplyBox> FindChannel(std::uint64_t route) {
    const std::lock_guard lock(mutex);
    const auto found = channels.find(route);
    return found == channels.end() ? nullptr : found->second;
  }
};

namespace {

Status FullQueue(const std::string& to) {
  return Unavailable(to + " does not take its messages: " + std::to_string(kHighWaterMark) + " are waiting");
}

class InprocListener final : public Listener {
 public:
  InprocListener(std::shared_ptr<InprocNetwork::Names> names, std::string endpoint, std::shared_ptr<RequestBox> box,
                 std::uint64_t id)
      : names_(std::move(names)), endpoint_(std::move(endpoint)), box_(std::move(box)), id_(id) {}
  ~InprocListener() override {
    const std::lock_guard lock(names_->mutex);
    names_->listeners.erase(endpoint_);
  }

  Result<std::optional<Incoming>> Receive(int timeout_ms) override { return box_->Take(timeout_ms); }

  Status Send(OutgoingReply reply) override {
    GM_RETURN_IF_ERROR(CheckReply(reply.reply));
    const std::shared_ptr<ReplyBox> box = names_->FindChannel(reply.to.route);
    if (box == nullptr) return Unavailable("the client that asked " + endpoint_ + " has gone");
    return box->Put(id_, std::move(reply.reply)) ? Ok() : FullQueue("a client of " + endpoint_);
  }

  void Wake() override { box_->Wake(); }
  [[nodiscard]] const std::string& endpoint() const override { return endpoint_; }
  [[nodiscard]] std::uint64_t malformed() const override { return 0; }  // a channel sends no malformed request

 private:
  std::shared_ptr<InprocNetwork::Names> names_;
  std::string endpoint_;
  std::shared_ptr<RequestBox> box_;
  std::uint64_t id_;
};

class InprocChannel final : public Channel {
 public:
  InprocChannel(std::shared_ptr<InprocNetwork::Names> names, std::vector<std::string> endpoints,
                std::shared_ptr<ReplyBox> box, std::uint64_t route)
      : names_(std::move(names)), endpoints_(std::move(endpoints)), box_(std::move(box)), route_(route) {}
  ~InprocChannel() override {
    const std::lock_guard lock(names_->mutex);
    names_->channels.erase(route_);
  }

  Status Send(std::uint32_t shard, Request request) override {
    if (shard >= endpoints_.size()) return InvalidInput("there is no shard " + std::to_string(shard));
    GM_RETURN_IF_ERROR(CheckRequest(request));
    const std::string& endpoint = endpoints_[shard];
    const std::shared_ptr<RequestBox> box = names_->FindListener(endpoint);
    if (box == nullptr) return Unavailable("nobody listens at " + endpoint);
    const Peer peer{.route = route_, .may_write = true, .worker = -1};
    return box->Put(route_, Incoming{peer, std::move(request)}) ? Ok() : FullQueue(endpoint);
  }

  Result<std::optional<Reply>> Receive(int timeout_ms) override { return box_->Take(timeout_ms); }
  [[nodiscard]] bool in_process() const override { return true; }
  [[nodiscard]] std::uint64_t wire_bytes() const override { return 0; }

 private:
  std::shared_ptr<InprocNetwork::Names> names_;
  std::vector<std::string> endpoints_;
  std::shared_ptr<ReplyBox> box_;
  std::uint64_t route_;
};

}  // namespace

InprocNetwork::InprocNetwork() : names_(std::make_shared<Names>()) {}

Result<std::unique_ptr<Listener>> InprocNetwork::Listen(const std::string& endpoint) {
  auto box = std::make_shared<RequestBox>();
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(names_->mutex);
    if (!names_->listeners.emplace(endpoint, box).second) {
      return InvalidInput("cannot listen at " + endpoint + ": it is in use");
    }
    id = names_->next_id++;
  }
  return std::unique_ptr<Listener>(std::make_unique<InprocListener>(names_, endpoint, std::move(box), id));
}

std::unique_ptr<Channel> InprocNetwork::Connect(const std::vector<std::string>& endpoints) {
  auto box = std::make_shared<ReplyBox>();
  std::uint64_t route = 0;
  {
    const std::lock_guard lock(names_->mutex);
    route = names_->next_id++;
    names_->channels.emplace(route, box);
  }
  return std::make_unique<InprocChannel>(names_, endpoints, std::move(box), route);
}

}  // namespace gatemill::ps
