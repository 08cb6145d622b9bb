// The row store on disk: the one file that includes RocksDB.
//
// Layout of a store's directory: db/ is RocksDB's, ingest/ holds SST files that are being written. A checkpoint is a
// copy of db/ by hard links. Nothing is ever put: rows arrive only as ingested files, so there is no memtable to lose.
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "common/parallel.h"
#include "ps/store/record_format.h"
#include "ps/store/row_store.h"

namespace gatemill::ps {
namespace {

constexpr double kBloomBitsPerKey = 10.0;
constexpr std::size_t kBlockBytes = 2048;  // a MultiGet reads and checks one for nearly every row
constexpr std::size_t kMultiGetKeys = 512;  // one RocksDB call
constexpr std::size_t kLookups = 32;        // such calls whose rows are in memory at a time
constexpr std::uint64_t kMergedFileBytes = 64ULL << 20;
constexpr int kFilesBeforeMerge = 16;
constexpr std::size_t kMergeReadaheadBytes = 256U << 10;
constexpr std::size_t kScanReadaheadBytes = 2U << 20;
constexpr std::uint32_t kVshardsPerFileGroup = 16;    // a file ends only where such a group (or a table) ends
constexpr std::uint64_t kMinFileBytes = 16ULL << 20;  // smaller ones go on into the next group
constexpr std::uint64_t kMinTableFileBytes = 256ULL << 10;  // and still smaller ones into the next table

// RocksDB would write its log beside the data, into checkpoints too.
class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

rocksdb::Options OptionsOf(const RowStoreOptions& store) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(store.cache_bytes);
  // Indexes and filters stay in memory: in a cache that holds not all of them each lookup would bring in whole ones.
  table.cache_index_and_filter_blocks = false;
  table.block_size = kBlockBytes;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  rocksdb::Options options;
  options.create_if_missing = true;
  options.write_buffer_size = 64U << 10;  // nothing is ever put
  options.target_file_size_base = kMergedFileBytes;
  options.compaction_readahead_size = kMergeReadaheadBytes;
  // Merges take processor time from training: few of them, and after everything else.
  options.level0_file_num_compaction_trigger = kFilesBeforeMerge;
  options.compaction_style = rocksdb::kCompactionStyleUniversal;
  options.compaction_options_universal.min_merge_width = 4;
  options.env->LowerThreadPoolCPUPriority(rocksdb::Env::Priority::LOW, rocksdb::CpuPriority::kLow);
  options.compression = rocksdb::kNoCompression;  // floats of trained rows do not compress
  options.info_log = std::make_shared<SilentLogger>();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

Status FromRocks(const rocksdb::Status& status, const std::string& path) {
  if (status.ok()) return Ok();
  const std::string message = "row store " + path + ": " + status.ToString();
  if (status.IsCorruption()) return DataLoss(message + "; the files are damaged, use another checkpoint");
  if (status.IsNoSpace()) return Internal(message + "; free disk space");
  // RocksDB tells these apart in words only.
  for (const int error : {EMFILE, ENFILE}) {
    if (message.find(std::strerror(error)) != std::string::npos) {
      return Unavailable(message + "; raise the limit of open files (ulimit -n)");
    }
  }
  return Internal(message);
}

Status Unreadable(const std::string& path) {
  return DataLoss("row store " + path + ": a record is damaged or of an unknown format; use another checkpoint");
}

rocksdb::Slice SliceOf(const RecordKey& key) { return {key.data(), key.size()}; }

// Owned by a store; replaced as a whole by DropAll, which writers must survive.
struct Database {
  std::unique_ptr<rocksdb::DB> db;
  std::atomic<std::uint64_t> readers_bytes = 0;  // of the files' indexes and filters, when rows were last written

  void ReadReadersBytes() {
    std::uint64_t bytes = 0;
    if (db->GetIntProperty(rocksdb::DB::Properties::kEstimateTableReadersMem, &bytes)) readers_bytes = bytes;
  }
};

class RocksBulkWriter final : public RowStore::BulkWriter {
 public:
  // Files are named `prefix`-0.sst, ...
  RocksBulkWriter(Database* database, rocksdb::Options options, std::string prefix)
      : database_(database), options_(std::move(options)), prefix_(std::move(prefix)) {}

  ~RocksBulkWriter() override {
    writer_.reset();
    // What is left was not ingested; a file that stays behind goes with the scratch directory.
    for (const std::string& file : files_) (void)RemoveTree(file);
  }

  Status Add(StoreKey key, std::span<const float> values, const RowHeader& header) override {
    GM_RETURN_IF_ERROR(GoTo(key));
    EncodeRecord(values, header, &record_);
    return FromRocks(writer_->Put(SliceOf(last_key_), record_), files_.back());
  }

  Status Erase(StoreKey key) override {
    GM_RETURN_IF_ERROR(GoTo(key));
    return FromRocks(writer_->Delete(SliceOf(last_key_)), files_.back());
  }

  Status Finish() override {
    if (rows_ == 0) return Ok();
    if (writer_ != nullptr) GM_RETURN_IF_ERROR(CloseFile());
    if (database_->db == nullptr) return Internal("row store " + prefix_ + ": closed by an earlier failure");
    rocksdb::IngestExternalFileOptions ingest;
    ingest.move_files = true;
    ingest.write_global_seqno = false;  // files stay as written: checkpoints link to them
    GM_RETURN_IF_ERROR(FromRocks(database_->db->IngestExternalFile(files_, ingest), prefix_));
    files_.clear();
    rows_ = 0;
    database_->ReadReadersBytes();
    return Ok();
  }

 private:
  // What comes next is of this key, in a file that is open for it.
  Status GoTo(StoreKey key) {
    const RecordKey record_key = EncodeRecordKey(key);
    const std::uint64_t group =
        (static_cast<std::uint64_t>(key.table) << 32) | (VshardOf(key.key) / kVshardsPerFileGroup);
    if (rows_ != 0 && SliceOf(last_key_).compare(SliceOf(record_key)) >= 0) {
      return Internal("row store: rows added out of (table, vshard, key) order");
    }
    // Where a table ends earlier: a file with rows of the next would lie across everything between.
    const bool next_table = group >> 32 != group_ >> 32;
    if (writer_ != nullptr && group != group_ &&
        writer_->FileSize() >= (next_table ? kMinTableFileBytes : kMinFileBytes)) {
      GM_RETURN_IF_ERROR(CloseFile());
    }
    if (writer_ == nullptr) GM_RETURN_IF_ERROR(OpenFile());
    group_ = group;
    last_key_ = record_key;
    ++rows_;
    return Ok();
  }

  Status OpenFile() {
    files_.push_back(prefix_ + "-" + std::to_string(files_.size()) + ".sst");
    // The file's pages stay in the system's cache: its rows may be back soon.
    writer_ = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(), options_, nullptr, false);
    return FromRocks(writer_->Open(files_.back()), files_.back());
  }
  Status CloseFile() {
    Status status = FromRocks(writer_->Finish(), files_.back());
    writer_.reset();
    return status;
  }

  Database* database_;
  rocksdb::Options options_;
  std::string prefix_;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;
  std::vector<std::string> files_;
  std::uint64_t rows_ = 0;
  std::uint64_t group_ = 0;
  RecordKey last_key_{};
  std::string record_;
};

class RocksRowStore final : public RowStore {
 public:
  // An empty `ingest_dir` makes the store read-only.
  RocksRowStore(std::string db_dir, std::string ingest_dir, const RowStoreOptions& options)
      : db_dir_(std::move(db_dir)),
        ingest_dir_(std::move(ingest_dir)),
        cache_bytes_(options.cache_bytes),
        options_(OptionsOf(options)),
        readers_(options.read_threads) {}

  Status Open() {
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = ingest_dir_.empty() ? rocksdb::DB::OpenForReadOnly(options_, db_dir_, &db)
                                                       : rocksdb::DB::Open(options_, db_dir_, &db);
    database_.db.reset(db);
    if (status.ok()) {
      database_.ReadReadersBytes();
      return Ok();
    }
    const std::string text = status.ToString();
    if (const Status mapped = FromRocks(status, db_dir_); mapped.code() == Code::kUnavailable) return mapped;
    if (text.find(std::strerror(EACCES)) != std::string::npos) {
      return Unavailable("row store " + db_dir_ + ": " + text + "; run as a user who may read it");
    }
    // A file that the store's own list names cannot be read: to a reader that is damage, whatever the system calls it.
    if (ingest_dir_.empty()) return DataLoss("row store " + db_dir_ + ": " + text + "; use another checkpoint");
    return FromRocks(status, db_dir_);
  }

  Result<std::unique_ptr<BulkWriter>> NewBulkWriter() override {
    GM_RETURN_IF_ERROR(CheckWritable());
    return std::unique_ptr<BulkWriter>(
        std::make_unique<RocksBulkWriter>(&database_, options_, ingest_dir_ + "/" + std::to_string(next_writer_++)));
  }

  Status MultiGet(std::span<const StoreKey> keys, const VisitFound& visit) override {
    GM_RETURN_IF_ERROR(CheckOpen());
    for (std::size_t begin = 0; begin < keys.size(); begin += kLookups * kMultiGetKeys) {
      const std::span<const StoreKey> batch = keys.subspan(begin, std::min(kLookups * kMultiGetKeys, keys.size() - begin));
      const std::size_t lookups = (batch.size() + kMultiGetKeys - 1) / kMultiGetKeys;
      lookups_.resize(std::max(lookups_.size(), lookups));
      readers_.For(static_cast<std::int64_t>(lookups), 1, [&](std::int64_t first, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(end); ++i) {
          const std::size_t at = i * kMultiGetKeys;
          lookups_[i].status = LookUp(batch.subspan(at, std::min(kMultiGetKeys, batch.size() - at)), &lookups_[i]);
        }
      });
      for (std::size_t i = 0; i < lookups; ++i) {
        GM_RETURN_IF_ERROR(lookups_[i].status);
        for (const FoundRow& row : lookups_[i].found) {
          visit(begin + i * kMultiGetKeys + row.key,
                std::span(lookups_[i].values).subspan(row.first_value, row.num_values), row.header);
        }
      }
    }
    return Ok();
  }

  Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
              const VisitRow& visit) override {
    GM_RETURN_IF_ERROR(CheckOpen());
    if (first_vshard >= end_vshard) return Ok();
    const RecordKey begin = FirstRecordKey(table, first_vshard);
    const RecordKey end = FirstRecordKey(table, end_vshard);
    const rocksdb::Slice upper = SliceOf(end);
    rocksdb::ReadOptions read;
    read.iterate_upper_bound = &upper;
    // A few vshards are less than that: there RocksDB reads ahead as it sees fit.
    if (end_vshard - first_vshard > kVshardsPerFileGroup) read.readahead_size = kScanReadaheadBytes;
    read.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> at(database_.db->NewIterator(read));
    std::vector<float> values;
    RowHeader header;
    for (at->Seek(SliceOf(begin)); at->Valid(); at->Next()) {
      StoreKey key;
      if (!DecodeRecordKey(at->key().ToStringView(), &key) ||
          !DecodeRecord(at->value().ToStringView(), &values, &header)) {
        return Unreadable(db_dir_);
      }
      GM_RETURN_IF_ERROR(visit(key.key, values, header));
    }
    return FromRocks(at->status(), db_dir_);
  }

  Status Checkpoint(const std::string& dir) override {
    GM_RETURN_IF_ERROR(CheckWritable());
    GM_RETURN_IF_ERROR(CheckOpen());
    if (FileExists(dir)) return InvalidInput("checkpoint directory " + dir + " exists already; give a new one");
    rocksdb::Checkpoint* made = nullptr;
    GM_RETURN_IF_ERROR(FromRocks(rocksdb::Checkpoint::Create(database_.db.get(), &made), dir));
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
    return FromRocks(checkpoint->CreateCheckpoint(dir), dir);
  }

  // A new database: cheaper than deleting row by row, and the space is free at once (checkpoints keep their links).
  Status DropAll() override {
    GM_RETURN_IF_ERROR(CheckWritable());
    database_.db.reset();
    GM_RETURN_IF_ERROR(RemoveTree(db_dir_));
    return Open();
  }

  [[nodiscard]] std::uint64_t memory_bytes() const override { return cache_bytes_ + kRowStoreWriterBytes + database_.readers_bytes; }

 private:
  [[nodiscard]] Status CheckWritable() const {
    return ingest_dir_.empty() ? Internal("row store " + db_dir_ + " is open for reading only") : Ok();
  }
  [[nodiscard]] Status CheckOpen() const {
    return database_.db == nullptr ? Internal("row store " + db_dir_ + ": closed by an earlier failure") : Ok();
  }

  // One RocksDB call, and what it found.
  struct FoundRow {
    std::size_t key;
    std::size_t first_value;
    std::size_t num_values;
    RowHeader header;
  };
  struct Lookup {
    std::vector<RecordKey> record_keys;
    std::vector<rocksdb::Slice> slices;
    std::vector<rocksdb::PinnableSlice> records;
    std::vector<rocksdb::Status> statuses;
    std::vector<FoundRow> found;
    std::vector<float> values;  // of all that were found
    std::vector<float> row;
    Status status;
  };

  // By any of the readers. At most kMultiGetKeys keys.
  Status LookUp(std::span<const StoreKey> keys, Lookup* lookup) const {
    lookup->record_keys.resize(kMultiGetKeys);
    lookup->slices.resize(kMultiGetKeys);
    lookup->records.resize(kMultiGetKeys);
    lookup->statuses.resize(kMultiGetKeys);
    lookup->found.clear();
    lookup->values.clear();
    for (std::size_t i = 0; i < keys.size(); ++i) {
      lookup->record_keys[i] = EncodeRecordKey(keys[i]);
      lookup->slices[i] = SliceOf(lookup->record_keys[i]);
    }
    const std::span<const rocksdb::Slice> asked = std::span(lookup->slices).first(keys.size());
    const bool sorted =
        std::is_sorted(asked.begin(), asked.end(), [](const auto& a, const auto& b) { return a.compare(b) < 0; });
    database_.db->MultiGet(rocksdb::ReadOptions(), database_.db->DefaultColumnFamily(), keys.size(), asked.data(),
                           lookup->records.data(), lookup->statuses.data(), sorted);
    Status status;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (status.ok() && lookup->statuses[i].ok()) {
        FoundRow row{.key = i, .first_value = lookup->values.size(), .num_values = 0, .header = {}};
        if (DecodeRecord(lookup->records[i].ToStringView(), &lookup->row, &row.header)) {
          row.num_values = lookup->row.size();
          lookup->values.insert(lookup->values.end(), lookup->row.begin(), lookup->row.end());
          lookup->found.push_back(row);
        } else {
          status = Unreadable(db_dir_);
        }
      } else if (status.ok() && !lookup->statuses[i].IsNotFound()) {
        status = FromRocks(lookup->statuses[i], db_dir_);
      }
      lookup->records[i].Reset();
    }
    return status;
  }

  std::string db_dir_;
  std::string ingest_dir_;
  std::uint64_t cache_bytes_;
  rocksdb::Options options_;
  Database database_;
  std::atomic<std::uint64_t> next_writer_ = 0;
  ThreadPool readers_;
  std::vector<Lookup> lookups_;  // scratch of MultiGet
};

}  // namespace

Result<std::unique_ptr<RowStore>> CreateRowStore(const std::string& dir, const RowStoreOptions& options) {
  GM_RETURN_IF_ERROR(RemoveTree(dir));
  GM_RETURN_IF_ERROR(MakeDirs(dir + "/ingest"));
  auto store = std::make_unique<RocksRowStore>(dir + "/db", dir + "/ingest", options);
  GM_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<RowStore>(std::move(store));
}

Result<std::unique_ptr<RowStore>> OpenRowStoreReadOnly(const std::string& dir) {
  if (!FileExists(dir + "/CURRENT")) {
    return InvalidInput(dir + " is no row store (it has no file CURRENT); give the directory of a checkpoint's shard");
  }
  auto store = std::make_unique<RocksRowStore>(dir, "", RowStoreOptions());
  GM_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<RowStore>(std::move(store));
}

}  // namespace gatemill::ps
