#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

#include "worker/collective/collective.h"
#include "worker/collective/ordered_sum.h"

namespace gatemill::collective {
namespace {

class LocalCollective final : public Collective {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  Status AllReduceSum(std::span<float>) override { return Ok(); }
  Status AllReduceSum(std::span<double>) override { return Ok(); }
  Result<std::vector<std::string>> AllGather(const std::string& bytes) override { return std::vector{bytes}; }
  Result<std::string> Broadcast(const std::string& bytes, int root) override {
    if (root != 0) return Internal("Broadcast from worker " + std::to_string(root) + " of a job with one worker");
    return bytes;
  }
  Status Barrier() override { return Ok(); }
};

using Messages = std::shared_ptr<const std::vector<std::string>>;

// Where the threads meet: each round every rank leaves one message and takes everyone's.
// Thread safety: all members from any thread; mutex_ guards every field.
class MeetingPlace {
 public:
  MeetingPlace(int size, const Options& options)
      : size_(size),
        deadline_ms_(options.deadline_ms),
        messages_(static_cast<std::size_t>(size)),
        came_(messages_.size()) {}

  [[nodiscard]] int size() const { return size_; }

  // `call` names the operation; ranks that meet in different calls all fail.
  Result<Messages> Exchange(int rank, const std::string& call, std::string message) {
    std::unique_lock lock(mutex_);
    if (!failure_.ok()) return failure_.Annotate("the collective failed earlier");
    Arrive(rank, call, std::move(message));
    const std::uint64_t round = round_;
    if (arrived_ == size_) FinishRound();
    const auto over = [&] { return round_ != round || !failure_.ok(); };
    if (!changed_.wait_for(lock, std::chrono::milliseconds(deadline_ms_), over)) FailAbsent(call);
    // Nobody can finish the next round before this rank has come to it, so finished_ is this round's.
    if (round_ != round) return finished_;
    return failure_;
  }

 private:
  void Arrive(int rank, const std::string& call, std::string message) {
    if (arrived_ == 0) call_ = call;
    if (call != call_ && failure_.ok()) {
      failure_ = Internal("worker " + std::to_string(rank) + " called " + call + " while others called " + call_ +
                          "; all workers must make the same calls in the same order");
      changed_.notify_all();
    }
    messages_[static_cast<std::size_t>(rank)] = std::move(message);
    came_[static_cast<std::size_t>(rank)] = true;
    ++arrived_;
  }

  void FinishRound() {
    if (!failure_.ok()) return;
    finished_ = std::make_shared<const std::vector<std::string>>(
        std::exchange(messages_, std::vector<std::string>(messages_.size())));
    came_.assign(came_.size(), false);
    arrived_ = 0;
    ++round_;
    changed_.notify_all();
  }

  void FailAbsent(const std::string& call) {
    std::string absent;
    for (std::size_t rank = 0; rank < came_.size(); ++rank) {
      if (!came_[rank]) absent += (absent.empty() ? "" : ", ") + std::to_string(rank);
    }
    failure_ = DeadlineExceeded(call + ": no message from worker " + absent + " within " +
                                std::to_string(deadline_ms_) + " ms");
    changed_.notify_all();
  }

  const int size_;
  const int deadline_ms_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Status failure_;
  std::string call_;                   // of this round
  std::vector<std::string> messages_;  // of this round, by rank
  std::vector<bool> came_;             // to this round, by rank
  int arrived_ = 0;                    // how many came
  std::uint64_t round_ = 0;
  Messages finished_;  // of the round before
};

class ThreadCollective final : public Collective {
 public:
  ThreadCollective(int rank, std::shared_ptr<MeetingPlace> place) : rank_(rank), place_(std::move(place)) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return place_->size(); }
  Status AllReduceSum(std::span<float> values) override { return Sum(values); }
  Status AllReduceSum(std::span<double> values) override { return Sum(values); }

  Result<std::vector<std::string>> AllGather(const std::string& bytes) override {
    GM_ASSIGN_OR_RETURN(const Messages messages, place_->Exchange(rank_, "AllGather", bytes));
    return *messages;
  }

  Result<std::string> Broadcast(const std::string& bytes, int root) override {
    const std::string call = "Broadcast from worker " + std::to_string(root);
    if (root < 0 || root >= size()) return Internal(call + " of " + std::to_string(size()));
    GM_ASSIGN_OR_RETURN(const Messages messages, place_->Exchange(rank_, call, rank_ == root ? bytes : std::string()));
    return (*messages)[static_cast<std::size_t>(root)];
  }

  Status Barrier() override {
    GM_ASSIGN_OR_RETURN([[maybe_unused]] const Messages messages, place_->Exchange(rank_, "Barrier", ""));
    return Ok();
  }

 private:
  template <typename T>
  Status Sum(std::span<T> values) {
    const std::string call = "AllReduceSum of " + std::to_string(values.size()) + " values";
    std::string bytes(values.size_bytes(), '\0');
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    GM_ASSIGN_OR_RETURN(const Messages messages, place_->Exchange(rank_, call, std::move(bytes)));
    std::vector<std::vector<T>> copies;  // a string's bytes need not be aligned for T
    std::vector<const T*> parts;
    for (const std::string& message : *messages) {
      copies.emplace_back(values.size());
      if (!values.empty()) std::memcpy(copies.back().data(), message.data(), message.size());
    }
    for (const auto& copy : copies) parts.push_back(copy.data());
    SumInRankOrder<T>(parts, values);
    return Ok();
  }

  const int rank_;
  const std::shared_ptr<MeetingPlace> place_;
};

}  // namespace

std::unique_ptr<Collective> NewLocalCollective() { return std::make_unique<LocalCollective>(); }

std::vector<std::unique_ptr<Collective>> NewThreadCollectives(int size, const Options& options) {
  const auto place = std::make_shared<MeetingPlace>(size, options);
  std::vector<std::unique_ptr<Collective>> collectives;
  for (int rank = 0; rank < size; ++rank) collectives.push_back(std::make_unique<ThreadCollective>(rank, place));
  return collectives;
}

}  // namespace gatemill::collective
