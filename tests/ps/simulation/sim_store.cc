#include "tests/ps/simulation/sim_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/keys.h"

namespace gatemill::ps {
namespace {

using Order = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>;  // table, vshard, key
struct Row {
  std::vector<float> values;
  RowHeader header;
};
using Rows = std::map<Order, Row>;

constexpr std::size_t kRowsOfBlock = 3;
constexpr const char* kCurrent = "/CURRENT";
constexpr const char* kRowsFile = "/rows.sst";
constexpr const char* kAddedFile = "/added";
constexpr std::size_t kBytesOfAdded = 1024;  // of a row: a page or more where there is one
constexpr std::string_view kMagic = "rows";

Order OrderOf(StoreKey key) { return {key.table, VshardOf(key.key), key.key}; }

struct Block {
  Order first;
  Order last;
  std::uint64_t checksum = 0;
  std::string bytes;
  [[nodiscard]] bool whole() const { return Checksum(bytes) == checksum; }
};

template <typename T>
void Put(const T& value, std::string* to) {
  to->append(reinterpret_cast<const char*>(&value), sizeof(T));
}
void PutOrder(const Order& order, std::string* to) {
  Put(std::get<0>(order), to);
  Put(std::get<1>(order), to);
  Put(std::get<2>(order), to);
}

// Takes values off the front; `short_` once there were too few bytes.
struct Bytes {
  std::string_view left;
  bool too_short = false;

  template <typename T>
  T Take() {
    T value{};
    const std::string_view bytes = TakeBytes(sizeof(T));
    if (!too_short) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view TakeBytes(std::size_t n) {
    too_short = too_short || left.size() < n;
    if (too_short) return {};
    const std::string_view bytes = left.substr(0, n);
    left.remove_prefix(n);
    return bytes;
  }
  Order TakeOrder() {
    const auto table = Take<std::uint32_t>();
    const auto vshard = Take<std::uint32_t>();
    return {table, vshard, Take<std::uint64_t>()};
  }
};

std::vector<Block> BlocksOf(const Rows& rows) {
  std::vector<Block> blocks;
  std::size_t in_block = 0;
  for (const auto& [order, row] : rows) {
    if (in_block == 0) blocks.push_back({.first = order, .last = order, .checksum = 0, .bytes = {}});
    Block& block = blocks.back();
    block.last = order;
    PutOrder(order, &block.bytes);
    Put(row.header, &block.bytes);
    Put(row.values.size(), &block.bytes);
    for (const float value : row.values) Put(value, &block.bytes);
    in_block = (in_block + 1) % kRowsOfBlock;
  }
  for (Block& block : blocks) block.checksum = Checksum(block.bytes);
  return blocks;
}

void TakeRows(const Block& block, Rows* rows) {
  Bytes bytes{.left = block.bytes};
  while (!bytes.left.empty() && !bytes.too_short) {
    const Order order = bytes.TakeOrder();
    Row row;
    row.header = bytes.Take<RowHeader>();
    row.values.resize(bytes.Take<std::size_t>());
    for (float& value : row.values) value = bytes.Take<float>();
    if (!bytes.too_short) (*rows)[order] = std::move(row);
  }
}

std::string FileOf(const std::vector<Block>& blocks) {
  std::string file;
  std::string index(kMagic);
  Put(blocks.size(), &index);
  for (const Block& block : blocks) {
    PutOrder(block.first, &index);
    PutOrder(block.last, &index);
    Put(block.checksum, &index);
    Put(block.bytes.size(), &index);
    file += block.bytes;
  }
  const std::size_t index_bytes = index.size();
  Put(Checksum(index), &index);
  Put(index_bytes, &index);
  return file + index;
}

Status Damaged(const std::string& path, const std::string& what) {
  return DataLoss("row store " + path + ": " + what + "; the files are damaged, use another checkpoint");
}

// Blocks as they lie there, damaged ones too.
Result<std::vector<Block>> ReadBlocks(const std::string& dir) {
  if (!FileExists(dir + kCurrent)) return DataLoss(dir + " is no row store (it has no file CURRENT); use another checkpoint");
  const std::string path = dir + kRowsFile;
  if (!FileExists(path)) return DataLoss(path + " is missing; use another checkpoint");
  GM_ASSIGN_OR_RETURN(const std::string file, ReadFile(path));
  constexpr std::size_t kTail = sizeof(std::uint64_t) + sizeof(std::size_t);
  if (file.size() < kTail + kMagic.size()) return Damaged(path, "it is cut short");
  Bytes tail{.left = std::string_view(file).substr(file.size() - kTail)};
  const auto checksum = tail.Take<std::uint64_t>();
  const auto index_bytes = tail.Take<std::size_t>();
  if (index_bytes > file.size() - kTail) return Damaged(path, "its index is larger than the file");
  const std::size_t index_at = file.size() - kTail - index_bytes;
  const std::string_view index = std::string_view(file).substr(index_at, index_bytes);
  if (Checksum(index) != checksum || !index.starts_with(kMagic)) return Damaged(path, "its index has a wrong checksum");
  Bytes of_index{.left = index.substr(kMagic.size())};
  Bytes of_blocks{.left = std::string_view(file).substr(0, index_at)};
  std::vector<Block> blocks(of_index.Take<std::size_t>());
  for (Block& block : blocks) {
    block.first = of_index.TakeOrder();
    block.last = of_index.TakeOrder();
    block.checksum = of_index.Take<std::uint64_t>();
    block.bytes = of_blocks.TakeBytes(of_index.Take<std::size_t>());
  }
  if (of_index.too_short || of_blocks.too_short) return Damaged(path, "its blocks are cut short");
  return blocks;
}

Status WriteBytes(const std::string& path, std::string_view bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return Internal("row store " + path + ": " + std::strerror(errno));
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0) {
      const std::string why = std::strerror(errno);
      ::close(file);
      return Internal("row store " + path + ": " + why + "; free disk space");
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  ::close(file);
  return Ok();
}

class SimBulkWriter final : public RowStore::BulkWriter {
 public:
  using Take = std::function<Status(std::map<Order, std::optional<Row>>)>;
  explicit SimBulkWriter(Take take) : take_(std::move(take)) {}

  Status Add(StoreKey key, std::span<const float> values, const RowHeader& header) override {
    return Append(key, Row{{values.begin(), values.end()}, header});
  }
  Status Erase(StoreKey key) override { return Append(key, std::nullopt); }
  Status Finish() override { return take_(std::exchange(added_, {})); }

 private:
  Status Append(StoreKey key, std::optional<Row> row) {
    const Order order = OrderOf(key);
    if (!added_.empty() && added_.rbegin()->first >= order) {
      return Internal("row store: rows added out of (table, vshard, key) order");
    }
    added_.emplace_hint(added_.end(), order, std::move(row));
    return Ok();
  }

  Take take_;
  std::map<Order, std::optional<Row>> added_;  // none = erased
};

class SimStore final : public RowStore {
 public:
  SimStore(DiesHere dies_here, std::string dir) : dies_here_(std::move(dies_here)), dir_(std::move(dir)) {}

  Result<std::unique_ptr<BulkWriter>> NewBulkWriter() override { return NewWriter(false); }
  Result<std::unique_ptr<BulkWriter>> NewReplacement() override { return NewWriter(true); }

  Status MultiGet(std::span<const StoreKey> keys, const VisitFound& visit) override {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const Order order = OrderOf(keys[i]);
      GM_RETURN_IF_ERROR(CheckRange(order, order));
      const auto found = rows_.find(order);
      if (found != rows_.end()) visit(i, found->second.values, found->second.header);
    }
    return Ok();
  }

  Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard, const VisitRow& visit) override {
    if (first_vshard >= end_vshard) return Ok();
    const Order begin{table, first_vshard, 0};
    const Order end{table, end_vshard, 0};
    GM_RETURN_IF_ERROR(CheckRange(begin, end));
    for (auto at = rows_.lower_bound(begin); at != rows_.lower_bound(end); ++at) {
      GM_RETURN_IF_ERROR(visit(std::get<2>(at->first), at->second.values, at->second.header));
    }
    return Ok();
  }

  // Under another name until it is whole, as RocksDB does.
  Status Checkpoint(const std::string& dir, const VisitCopied& /*copied*/) override {
    if (FileExists(dir)) return InvalidInput("checkpoint directory " + dir + " exists already; give a new one");
    const std::string unfinished = dir + ".tmp";
    std::error_code error;
    std::filesystem::create_directory(unfinished, error);  // fails when what it is to lie in has gone
    if (error) return Internal("row store " + unfinished + ": " + error.message());
    std::vector<Block> blocks = BlocksOf(rows_);
    blocks.insert(blocks.end(), damaged_.begin(), damaged_.end());
    const std::string file = FileOf(blocks);
    GM_RETURN_IF_ERROR(CheckAlive());
    GM_RETURN_IF_ERROR(WriteBytes(unfinished + kRowsFile, std::string_view(file).substr(0, file.size() / 2)));
    GM_RETURN_IF_ERROR(CheckAlive());
    GM_RETURN_IF_ERROR(WriteBytes(unfinished + kRowsFile, file));
    GM_RETURN_IF_ERROR(CheckAlive());
    GM_RETURN_IF_ERROR(WriteBytes(unfinished + kCurrent, "rows.sst\n"));
    GM_RETURN_IF_ERROR(CheckAlive());
    std::filesystem::rename(unfinished, dir, error);
    if (error) return Internal("row store " + dir + ": " + error.message());
    return CheckAlive();
  }

  Status Replace(std::span<const Source> sources, std::uint32_t /*num_tables*/) override {
    Rows taken;
    std::vector<Block> damaged;
    for (const Source& source : sources) {
      GM_ASSIGN_OR_RETURN(std::vector<Block> blocks, ReadBlocks(source.dir));
      Rows rows;
      for (Block& block : blocks) {
        if (block.whole()) {
          TakeRows(block, &rows);
        } else {
          damaged.push_back(std::move(block));
        }
      }
      for (auto& [order, row] : rows) {
        const std::uint32_t vshard = std::get<1>(order);
        if (vshard >= source.vshards.first && vshard < source.vshards.end) taken[order] = std::move(row);
      }
    }
    rows_ = std::move(taken);
    damaged_ = std::move(damaged);
    return Ok();
  }

  [[nodiscard]] std::uint64_t memory_bytes() const override { return 0; }  // it stands for a disk

 private:
  std::unique_ptr<BulkWriter> NewWriter(bool replaces) {
    return std::make_unique<SimBulkWriter>([this, replaces](std::map<Order, std::optional<Row>> added) {
      GM_RETURN_IF_ERROR(CheckAlive());
      GM_RETURN_IF_ERROR(WriteAdded(added.size()));
      if (replaces) rows_.clear();
      if (replaces) damaged_.clear();
      for (auto& [order, row] : added) {
        if (row.has_value()) {
          rows_[order] = std::move(*row);
        } else {
          rows_.erase(order);
        }
      }
      return Ok();
    });
  }
  // It takes room for a moment.
  [[nodiscard]] Status WriteAdded(std::size_t rows) const {
    if (dir_.empty()) return Ok();
    GM_RETURN_IF_ERROR(MakeDirs(dir_));
    const std::string path = dir_ + kAddedFile;
    const Status written = WriteBytes(path, std::string(rows * kBytesOfAdded, 'r'));
    const Status removed = RemoveTree(path);
    return written.ok() ? removed : written;
  }
  [[nodiscard]] Status CheckAlive() const {
    return dies_here_ && dies_here_() ? Cancelled("the simulated process has died") : Ok();
  }
  [[nodiscard]] Status CheckRange(const Order& first, const Order& last) const {
    const auto damaged = std::find_if(damaged_.begin(), damaged_.end(),
                                      [&](const Block& block) { return first <= block.last && block.first <= last; });
    return damaged == damaged_.end() ? Ok() : Damaged("of a simulation", "a block has a wrong checksum");
  }

  DiesHere dies_here_;
  std::string dir_;
  Rows rows_;
  std::vector<Block> damaged_;  // of checkpoints that were taken over
};

}  // namespace

std::unique_ptr<RowStore> NewSimStore(DiesHere dies_here, const std::string& dir) {
  return std::make_unique<SimStore>(std::move(dies_here), dir);
}

Status VerifySimCheckpoint(const std::string& dir) {
  GM_ASSIGN_OR_RETURN(const std::vector<Block> blocks, ReadBlocks(dir));
  for (const Block& block : blocks) {
    if (!block.whole()) return Damaged(dir + kRowsFile, "a block has a wrong checksum");
  }
  return Ok();
}

}  // namespace gatemill::ps
