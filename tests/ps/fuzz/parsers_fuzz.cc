// Fuzzes the small parsers: what a server reads from its disk (a record's key, a record, a checkpoint's tables.json)
// and the user id of a CURVE connection. What is accepted must come back the same when it is written and read again.
//
// The first byte of an input names the parser.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "common/random.h"
#include "ps/checkpoint.h"
#include "ps/store/record_format.h"
#include "ps/wire/message.h"
#include "ps/wire/zap.h"
#include "tests/ps/fuzz/fuzz_target.h"

namespace gatemill::fuzz {
namespace {

enum class Parser : std::uint8_t { kRecordKey, kRecord, kTables, kUserId };
constexpr int kParsers = 4;

// A directory of this process, gone with it.
class Directory {
 public:
  Directory() : path_((std::filesystem::temp_directory_path() / "gatemill-fuzz-XXXXXX").string()) {
    Require(::mkdtemp(path_.data()) != nullptr, "a directory can be made");
  }
  ~Directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  void Write(std::string_view contents) const { std::ofstream(path_ + "/tables.json", std::ios::binary) << contents; }
  [[nodiscard]] std::string Read() const {
    std::ifstream stream(path_ + "/tables.json", std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

 private:
  std::string path_;
};

const Directory& Scratch() {
  static const Directory directory;
  return directory;
}

void ReadRecordKey(std::string_view bytes) {
  ps::StoreKey key;
  if (!ps::DecodeRecordKey(bytes, &key)) return;
  ++Reached()["record key"];
  const ps::RecordKey again = ps::EncodeRecordKey(key);
  Require(std::string_view(again.data(), again.size()) == bytes, "a record's key comes back as it was");
}

void ReadRecord(std::string_view bytes) {
  std::vector<float> values;
  ps::RowHeader header;
  if (!ps::DecodeRecord(bytes, &values, &header)) return;
  ++Reached()["record"];
  std::string again;
  ps::EncodeRecord(values, header, &again);
  Require(again == bytes, "a record comes back as it was");
}

void ReadTables(std::string_view text) {
  Scratch().Write(text);
  const auto tables = ps::ReadCheckpointTables(Scratch().path());
  if (!tables.ok()) {
    ++Reached()["tables refused"];
    return;
  }
  ++Reached()["tables"];
  Require(ps::WriteCheckpointTables(Scratch().path(), *tables).ok(), "tables that were read can be written");
  const auto again = ps::ReadCheckpointTables(Scratch().path());
  Require(again.ok(), "tables that were written can be read");
  Require(ps::SpecDigest(tables->specs, tables->seed) == ps::SpecDigest(again->specs, again->seed) &&
              tables->num_shards == again->num_shards,
          "tables come back as they were");
}

void ReadUserId(std::string_view text) {
  const auto peer = ps::PeerOfUserId(std::string(text));
  if (!peer) return;
  ++Reached()["user id"];
  const auto again =
      ps::PeerOfUserId(ps::UserIdOf({.public_key = "", .worker = peer->worker, .may_write = peer->may_write}));
  Require(again && again->worker == peer->worker && again->may_write == peer->may_write,
          "a user id comes back as it was");
}

std::string SeedOf(Parser parser, std::string_view bytes) {
  return std::string(1, static_cast<char>(parser)).append(bytes);
}

std::string TablesText() {
  ps::CheckpointTables tables{.specs = std::vector<ps::TableSpec>(2), .seed = 7, .num_shards = 2};
  tables.specs[0].name = "user";
  tables.specs[0].dim = 4;
  tables.specs[0].optimizer.type = "adam";
  tables.specs[1].name = "tag";
  tables.specs[1].dim = 1;
  tables.specs[1].oov_rows = 3;
  Require(ps::WriteCheckpointTables(Scratch().path(), tables).ok(), "good tables can be written");
  return Scratch().Read();
}

const std::vector<std::string>& CachedSeeds() {
  static const std::vector<std::string> seeds = [] {
    const ps::RecordKey key = ps::EncodeRecordKey({.table = 3, .key = 0x123456789abcdefULL});
    std::string record;
    ps::EncodeRecord(std::vector<float>{0.5F, -1.0F, 2.0F}, {.updates = 3, .last_step = 9}, &record);
    return std::vector<std::string>{
        SeedOf(Parser::kRecordKey, {key.data(), key.size()}), SeedOf(Parser::kRecord, record),
        SeedOf(Parser::kTables, TablesText()),
        SeedOf(Parser::kUserId, ps::UserIdOf({.public_key = "", .worker = 12, .may_write = true})),
        SeedOf(Parser::kUserId, "-1 reads")};
  }();
  return seeds;
}

}  // namespace

std::vector<std::string> Seeds() { return CachedSeeds(); }

std::vector<std::string> MustReach() { return {"record key", "record", "tables", "user id"}; }

}  // namespace gatemill::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using gatemill::fuzz::Parser;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (static_cast<Parser>(data[0] % gatemill::fuzz::kParsers)) {
    case Parser::kRecordKey:
      gatemill::fuzz::ReadRecordKey(bytes);
      break;
    case Parser::kRecord:
      gatemill::fuzz::ReadRecord(bytes);
      break;
    case Parser::kTables:
      gatemill::fuzz::ReadTables(bytes);
      break;
    case Parser::kUserId:
      gatemill::fuzz::ReadUserId(bytes);
  }
  return 0;
}

// Bytes are mutated as libFuzzer does, now and then of a good input.
std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  gatemill::RandomStream random(seed, size);
  const std::vector<std::string>& seeds = gatemill::fuzz::CachedSeeds();
  const std::string& good = seeds[random.Below(seeds.size())];
  if (random.Below(6) == 0 && good.size() <= max_size) size = good.copy(reinterpret_cast<char*>(data), max_size);
  return LLVMFuzzerMutate(data, size, max_size);
}
