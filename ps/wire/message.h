// What servers and workers say to each other, as plain values. In process they travel as they are; over ZeroMQ
// ps/wire/codec.h turns the header into Cap'n Proto and the frames go raw beside it.
//
// A request names itself by (worker, step, op, id). Requests are idempotent: a pull changes nothing, a push of a
// (worker, step) that was taken already is acknowledged and not applied again. So a client may send again when a
// deadline is near.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/table/half.h"
#include "ps/table/table.h"
#include "ps/wire/frame.h"
#include "ps/wire/row_target.h"

namespace gatemill::ps {

inline constexpr std::uint32_t kWireVersion = 6;
inline constexpr std::uint32_t kMaxTablesPerRequest = 4096;
inline constexpr std::uint64_t kMaxKeysPerPart = 1ULL << 26;
inline constexpr std::uint64_t kMaxMessageBytes = 1ULL << 31;

enum class Op : std::uint16_t {
  kHello = 1,       // answers with the server's SpecDigest in `text`: do both sides mean the same tables?
  kPull = 2,        // parts: keys -> parts: rows, and found where it is wanted
  kPush = 3,        // parts: keys, rows (= gradients); of keys that were only seen (ps/retention.h) no rows. One a step to
                    // every shard, empty or not
  kPrefetch = 4,    // parts: keys. No reply
  kCheckpoint = 5,  // text: the checkpoint's ps directory, written to once every push before `step` is applied; answers
                    // with JSON in `text`
  kRestore = 6,     // text: directory of a checkpoint's ps/ part. Rows are replaced; `step` is the next to be pushed
  kStats = 7,       // answers with JSON in `text`: rows, bytes and dirty rows per table
  kReadStored = 8,  // parts: keys -> parts: rows [n, dim + state_dim], headers, found: for inspection and export
  kClear = 9,       // drops every row; `step` is the next to be pushed
  kWarmStart = 10,  // text: JSON {"dir": a checkpoint's ps/ part, "tables": names}. Every row is replaced: those tables get the
                    // embeddings of its tables with the same names, optimizers begin anew; the others have no rows
};
inline constexpr Op kLastOp = Op::kWarmStart;
// For people: "pull", "read stored"; "unknown" for a number that is none of these.
const char* NameOf(Op op);

// Which job and which incarnation of it (a restart counts up), who asks, and for which global step.
struct Stamp {
  std::uint64_t job = 0;
  std::uint32_t incarnation = 0;
  std::uint32_t worker = 0;
  std::uint64_t step = 0;
};

// The part of a request or reply that concerns one table. Sizes: keys n * 8 bytes; rows n * dim * BytesOf(dtype)
// (of keys that were only seen none; kReadStored: n * (dim + state_dim) * 4); found n * 1; headers n * sizeof(RowHeader).
struct TablePart {
  std::uint32_t table = 0;
  std::uint64_t count = 0;  // n
  Frame keys = {};
  Frame rows = {};
  Frame found = {};
  Frame headers = {};
  bool want_found = false;  // of a pull: the reply says which keys have a row
  bool only_seen = false;   // of a push: keys that were trained without a row of their own, and no gradients
  FloatType dtype = FloatType::kFloat32;  // of rows; of a pull: as what they are wanted
  // In process only. Of a pull: where rows and found go instead of into the reply, whose part then is `delivered`.
  std::shared_ptr<RowTarget> target = {};
  bool delivered = false;
};

struct Request {
  std::uint32_t version = kWireVersion;
  Op op = Op::kHello;
  std::uint64_t id = 0;  // chosen by the client, echoed in the reply
  Stamp stamp;
  ReadMode mode = ReadMode::kTrain;
  std::string text;
  std::uint32_t day = 0;  // of a push of worker 0: since 1970-01-01 UTC, by its clock; 0 = not said
  std::vector<TablePart> parts;
};

struct Reply {
  std::uint64_t id = 0;
  Op op = Op::kHello;
  std::uint32_t shard = 0;
  Code code = Code::kOk;
  std::string error;  // for code != kOk
  std::string text;
  std::vector<TablePart> parts;
};

// XXH3-64 over every spec and the seed, as hex: equal digests mean equal tables.
std::string SpecDigest(const std::vector<TableSpec>& specs, std::uint64_t seed);

}  // namespace gatemill::ps
