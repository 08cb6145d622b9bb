#include "worker/collective/mpi.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "worker/collective/ordered_sum.h"

namespace gatemill::collective {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kTag = 1;  // messages of a pair of ranks arrive in the order of their calls
constexpr std::size_t kMaxMessageBytes = std::size_t{1} << 30;  // MPI counts in int; longer messages go in pieces
// A sum up to this size goes to everyone whole: one exchange instead of two.
constexpr std::size_t kSmallSumBytes = 8192;

std::string MpiError(int error) {
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  if (MPI_Error_string(error, text.data(), &length) != MPI_SUCCESS) return "MPI error " + std::to_string(error);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

// Sleeps between two looks at pending requests: first it only yields, then a quarter of the time waited so far, at most
// 1 ms, so that a wait is never much longer than needed and an idle rank leaves its core to others.
class Backoff {
 public:
  void Pause(SteadyClock::duration waited) {
    using std::chrono::microseconds;
    if (waited < microseconds(50)) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::clamp<SteadyClock::duration>(waited / 4, microseconds(20), microseconds(1000)));
    }
  }
};

// The pending messages of one exchange. What they read and write must stay until Wait returns.
class Exchange {
 public:
  explicit Exchange(MPI_Comm communicator) : communicator_(communicator) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  void Send(const void* data, std::size_t bytes, int peer) {
    const char* begin = static_cast<const char*>(data);
    InPieces(
        bytes,
        [&](std::size_t offset, int count, MPI_Request* request) {
          return MPI_Isend(begin + offset, count, MPI_BYTE, peer, kTag, communicator_, request);
        },
        peer, false);
  }
  void Receive(void* data, std::size_t bytes, int peer) {
    char* begin = static_cast<char*>(data);
    InPieces(
        bytes,
        [&](std::size_t offset, int count, MPI_Request* request) {
          return MPI_Irecv(begin + offset, count, MPI_BYTE, peer, kTag, communicator_, request);
        },
        peer, true);
  }

  // Until all are complete: ok; kDeadline names the workers that were waited for; kUnavailable is MPI's own error.
  Status Wait(const std::string& call, int deadline_ms) {
    const SteadyClock::time_point start = SteadyClock::now();
    Backoff backoff;
    std::vector<MPI_Status> statuses(requests_.size());
    while (error_ == MPI_SUCCESS) {
      int done = 0;
      error_ = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses.data());
      if (error_ == MPI_ERR_IN_STATUS) error_ = FirstError(statuses);
      if (error_ != MPI_SUCCESS) break;
      if (done != 0) return Ok();
      const SteadyClock::duration waited = SteadyClock::now() - start;
      if (waited > std::chrono::milliseconds(deadline_ms)) {
        const std::string pending = PendingPeers();
        GiveUp();
        return DeadlineExceeded(call + ": waited " + std::to_string(deadline_ms) + " ms for worker " + pending +
                                "; see what it says itself");
      }
      backoff.Pause(waited);
    }
    const std::string reason = MpiError(error_);
    const std::string pending = PendingPeers();
    GiveUp();
    return Unavailable(call + ": MPI failed with \"" + reason + "\"" +
                       (pending.empty() ? "" : ", worker " + pending + " still awaited"));
  }

 private:
  struct Origin {
    int peer;
    bool receive;
  };

  template <typename Post>
  void InPieces(std::size_t bytes, const Post& post, int peer, bool receive) {
    std::size_t offset = 0;
    do {
      const std::size_t count = std::min(kMaxMessageBytes, bytes - offset);
      MPI_Request request = MPI_REQUEST_NULL;
      if (error_ == MPI_SUCCESS) error_ = post(offset, static_cast<int>(count), &request);
      requests_.push_back(request);
      origins_.push_back({peer, receive});
      offset += count;
    } while (offset < bytes);
  }

  static int FirstError(const std::vector<MPI_Status>& statuses) {
    for (const MPI_Status& status : statuses) {
      if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING) return status.MPI_ERROR;
    }
    return MPI_ERR_OTHER;
  }

  // MPI_Testall sets the requests that are complete to MPI_REQUEST_NULL only when all are; so ask each.
  std::string PendingPeers() {
    std::vector<int> peers;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      int done = 1;
      if (requests_[i] != MPI_REQUEST_NULL) MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE);
      if (done == 0) peers.push_back(origins_[i].peer);
    }
    std::ranges::sort(peers);
    peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
    std::string text;
    for (const int peer : peers) text += (text.empty() ? "" : ", ") + std::to_string(peer);
    return text;
  }

  // After a failure nothing may be written to the caller's memory any more: receives are cancelled. Sends only read,
  // and MPI makes no progress on them once the process has stopped calling it.
  void GiveUp() {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      if (origins_[i].receive) MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
  }

  MPI_Comm communicator_;
  int error_ = MPI_SUCCESS;
  std::vector<MPI_Request> requests_;
  std::vector<Origin> origins_;
};

class MpiCollective final : public Collective {
 public:
  MpiCollective(MPI_Comm communicator, int rank, int size, const Options& options)
      : communicator_(communicator), rank_(rank), size_(size), options_(options) {}
  ~MpiCollective() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && failure_.ok()) MPI_Comm_free(&communicator_);
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }
  Status AllReduceSum(std::span<float> values) override { return Sum(values); }
  Status AllReduceSum(std::span<double> values) override { return Sum(values); }

  Result<std::vector<std::string>> AllGather(const std::string& bytes) override {
    std::uint64_t length = bytes.size();
    std::vector<std::uint64_t> lengths(static_cast<std::size_t>(size_), length);
    GM_RETURN_IF_ERROR(Run("AllGather", [&](Exchange& exchange) {
      ForPeers([&](int peer) {
        exchange.Receive(&lengths[static_cast<std::size_t>(peer)], sizeof(length), peer);
        exchange.Send(&length, sizeof(length), peer);
      });
    }));
    std::vector<std::string> all;
    all.reserve(lengths.size());
    for (const std::uint64_t each : lengths) all.emplace_back(each, '\0');
    GM_RETURN_IF_ERROR(Run("AllGather", [&](Exchange& exchange) {
      ForPeers([&](int peer) {
        std::string& theirs = all[static_cast<std::size_t>(peer)];
        if (!theirs.empty()) exchange.Receive(theirs.data(), theirs.size(), peer);
        if (!bytes.empty()) exchange.Send(bytes.data(), bytes.size(), peer);
      });
    }));
    all[static_cast<std::size_t>(rank_)] = bytes;
    return all;
  }

  Result<std::string> Broadcast(const std::string& bytes, int root) override {
    const std::string call = "Broadcast from worker " + std::to_string(root);
    if (root < 0 || root >= size_) return Internal(call + " of " + std::to_string(size_));
    std::uint64_t length = bytes.size();
    if (rank_ == root) {
      GM_RETURN_IF_ERROR(Run(call, [&](Exchange& exchange) {
        ForPeers([&](int peer) {
          exchange.Send(&length, sizeof(length), peer);
          if (length > 0) exchange.Send(bytes.data(), length, peer);
        });
      }));
      return bytes;
    }
    GM_RETURN_IF_ERROR(Run(call, [&](Exchange& exchange) { exchange.Receive(&length, sizeof(length), root); }));
    std::string received(length, '\0');
    if (length == 0) return received;
    GM_RETURN_IF_ERROR(Run(call, [&](Exchange& exchange) { exchange.Receive(received.data(), length, root); }));
    return received;
  }

  Status Barrier() override {
    char nothing = 0;
    return Run("Barrier", [&](Exchange& exchange) {
      ForPeers([&](int peer) {
        exchange.Receive(&nothing, 0, peer);
        exchange.Send(&nothing, 0, peer);
      });
    });
  }

 private:
  // Peers in an order that starts behind this rank, so that not everyone sends to rank 0 first.
  template <typename Body>
  void ForPeers(const Body& body) const {
    for (int step = 1; step < size_; ++step) body((rank_ + step) % size_);
  }

  // One exchange: `post` names its messages, then all are waited for.
  template <typename Post>
  Status Run(const std::string& call, const Post& post) {
    if (!failure_.ok()) return failure_.Annotate("the collective failed earlier");
    Exchange exchange(communicator_);
    post(exchange);
    failure_ = exchange.Wait(call, options_.deadline_ms);
    return failure_;
  }

  // First value of the slice that `rank` sums, of `count` values; slices differ by one value at most.
  [[nodiscard]] std::size_t SliceBegin(std::size_t count, int rank) const {
    const auto ranks = static_cast<std::size_t>(size_);
    const auto index = static_cast<std::size_t>(rank);
    return count / ranks * index + std::min(index, count % ranks);
  }

  template <typename T>
  Status Sum(std::span<T> values) {
    if (size_ == 1) return failure_;
    if (values.size_bytes() <= kSmallSumBytes) return SumWhole(values);
    GM_RETURN_IF_ERROR(SumOwnSlice(values));
    return Run(SumName(values), [&](Exchange& exchange) {
      const std::span<T> own = Slice(values, rank_);
      ForPeers([&](int peer) {
        const std::span<T> theirs = Slice(values, peer);
        exchange.Receive(theirs.data(), theirs.size_bytes(), peer);
        exchange.Send(own.data(), own.size_bytes(), peer);
      });
    });
  }

  // Everyone gets everything and adds it up; the sums are the same everywhere, for the order is.
  template <typename T>
  Status SumWhole(std::span<T> values) {
    T* received = Scratch<T>(values.size());
    GM_RETURN_IF_ERROR(Run(SumName(values), [&](Exchange& exchange) {
      ForPeers([&](int peer) {
        exchange.Receive(received + ScratchIndex(peer) * values.size(), values.size_bytes(), peer);
        exchange.Send(values.data(), values.size_bytes(), peer);
      });
    }));
    SumInRankOrder<T>(Parts(received, values), values);
    return Ok();
  }

  // Everyone gets everyone's values of its own slice and adds them up.
  template <typename T>
  Status SumOwnSlice(std::span<T> values) {
    const std::span<T> own = Slice(values, rank_);
    T* received = Scratch<T>(own.size());
    GM_RETURN_IF_ERROR(Run(SumName(values), [&](Exchange& exchange) {
      ForPeers([&](int peer) {
        const std::span<T> theirs = Slice(values, peer);
        exchange.Receive(received + ScratchIndex(peer) * own.size(), own.size_bytes(), peer);
        exchange.Send(theirs.data(), theirs.size_bytes(), peer);
      });
    }));
    SumInRankOrder<T>(Parts(received, own), own);
    return Ok();
  }

  template <typename T>
  [[nodiscard]] std::span<T> Slice(std::span<T> values, int rank) const {
    const std::size_t begin = SliceBegin(values.size(), rank);
    return values.subspan(begin, SliceBegin(values.size(), rank + 1) - begin);
  }

  template <typename T>
  static std::string SumName(std::span<T> values) {
    return "AllReduceSum of " + std::to_string(values.size()) + " values";
  }

  // Room for `count` values of each peer; kept between calls.
  template <typename T>
  T* Scratch(std::size_t count) {
    const std::size_t bytes = count * sizeof(T) * static_cast<std::size_t>(size_ - 1);
    if (scratch_.size() * sizeof(double) < bytes) scratch_.resize((bytes + sizeof(double) - 1) / sizeof(double));
    return reinterpret_cast<T*>(scratch_.data());
  }
  [[nodiscard]] std::size_t ScratchIndex(int peer) const {
    return static_cast<std::size_t>(peer < rank_ ? peer : peer - 1);
  }

  template <typename T>
  [[nodiscard]] std::vector<const T*> Parts(const T* received, std::span<T> own) const {
    std::vector<const T*> parts;
    for (int rank = 0; rank < size_; ++rank) {
      parts.push_back(rank == rank_ ? own.data() : received + ScratchIndex(rank) * own.size());
    }
    return parts;
  }

  MPI_Comm communicator_;
  const int rank_;
  const int size_;
  const Options options_;
  Status failure_;               // the first; nothing works after it
  std::vector<double> scratch_;  // peers' values during a sum
};

// Duplicates `source`, so that this collective's messages meet no others.
Result<MPI_Comm> Duplicate(MPI_Comm source, const Options& options) {
  MPI_Comm duplicate = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  int error = MPI_Comm_idup(source, &duplicate, &request);
  const SteadyClock::time_point start = SteadyClock::now();
  Backoff backoff;
  int done = 0;
  while (error == MPI_SUCCESS && done == 0) {
    error = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    const SteadyClock::duration waited = SteadyClock::now() - start;
    if (done == 0 && waited > std::chrono::milliseconds(options.deadline_ms)) {
      return DeadlineExceeded("setting up the workers' collective took more than " +
                              std::to_string(options.deadline_ms) + " ms; a worker did not come");
    }
    if (done == 0) backoff.Pause(waited);
  }
  if (error == MPI_SUCCESS) error = MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN);
  if (error != MPI_SUCCESS) return Unavailable("setting up the workers' collective: " + MpiError(error));
  return duplicate;
}

}  // namespace

Result<std::unique_ptr<Collective>> NewMpiCollective(int communicator, const Options& options) {
  GM_ASSIGN_OR_RETURN(const MPI_Comm duplicate, Duplicate(MPI_Comm_f2c(communicator), options));
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(duplicate, &rank);
  MPI_Comm_size(duplicate, &size);
  return std::unique_ptr<Collective>(std::make_unique<MpiCollective>(duplicate, rank, size, options));
}

}  // namespace gatemill::collective
