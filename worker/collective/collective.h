// What the workers of a job do together: sums of dense numbers and exchanges of small messages.
//
// Three implementations, one conformance suite: local (one worker; and W workers played by threads, for tests), MPI, and
// NCCL for device memory (worker/collective/nccl.h). Sums are made in rank order by our own code, so that they have the
// same bits every time; MPI only moves bytes.
//
// Nothing hangs: operations are non-blocking inside and polled with backoff against the deadline; a call that is not
// complete by then fails with kDeadline and names the ranks that did not come as far as can be known. After a failure the
// collective is unusable. All ranks make the same calls in the same order.
//
// Thread safety: one thread per object.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace gatemill::collective {

struct Options {
  int deadline_ms = 60000;
};

class Collective {
 public:
  virtual ~Collective() = default;
  [[nodiscard]] virtual int rank() const = 0;   // among the workers
  [[nodiscard]] virtual int size() const = 0;
  // Replaces `values` by their sum over all ranks, added in rank order: ((r0 + r1) + r2) + ...
  virtual Status AllReduceSum(std::span<float> values) = 0;
  virtual Status AllReduceSum(std::span<double> values) = 0;
  // Everyone's bytes, in rank order; lengths may differ.
  virtual Result<std::vector<std::string>> AllGather(const std::string& bytes) = 0;
  // Rank `root`'s bytes, at every rank.
  virtual Result<std::string> Broadcast(const std::string& bytes, int root) = 0;
  virtual Status Barrier() = 0;
};

// One worker alone.
std::unique_ptr<Collective> NewLocalCollective();
// `size` workers that are threads of this process: element i is rank i's, for its thread.
std::vector<std::unique_ptr<Collective>> NewThreadCollectives(int size, const Options& options);

}  // namespace gatemill::collective
