// Is a request one that a shard may act on? Everything that can be said without the shard's state (which steps were
// pushed): version, job, incarnation, who asks, op, table numbers, counts against frame sizes, whose keys they are,
// the size of the answer. Memory of the size a request claims is touched only after this.
//
// Thread safety: none (it keeps scratch memory).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/shard.h"
#include "ps/wire/message.h"

namespace gatemill::ps {

class RequestChecker {
 public:
  struct TableShape {
    std::string name;
    std::uint64_t dim = 0;
    std::uint64_t state_dim = 0;
    bool admits = false;  // keys may be pushed without gradients
    bool counts = false;  // of another table's sightings: only looked into
  };
  RequestChecker(const ShardOptions& options, std::vector<TableShape> tables)
      : options_(options), tables_(std::move(tables)) {}

  // kInvalidInput says what is wrong with which part and what was expected.
  Status Check(const Peer& from, const Request& request);

 private:
  [[nodiscard]] Status CheckSender(const Peer& from, const Request& request) const;
  Status CheckParts(const Request& request);
  [[nodiscard]] Status CheckFrames(Op op, const TablePart& part, const std::string& where) const;
  Status CheckKeys(const TablePart& part, const std::string& where);
  [[nodiscard]] std::uint64_t ReplyBytes(const Request& request, const TablePart& part) const;

  ShardOptions options_;
  std::vector<TableShape> tables_;
  std::vector<std::uint64_t> keys_;  // an aligned copy, where a frame is not
};

}  // namespace gatemill::ps
