// The row store on disk: the one file that includes RocksDB.
//
// Layout of a store's directory: db-N/ is RocksDB's, the next N when the store or its RocksDB is replaced; ingest/ holds SST files that are
// being written or taken over. A checkpoint is a copy of db-N/ by hard links, on another disk a copy
// that shares what it can with the one before (ps/store/shared_copies.h). Nothing is ever put: rows arrive only as files, so
// there is no memtable to lose.
//
// Parts are column families: a store that begins empty has RocksDB's default one for all vshards, one that took checkpoints over
// has one for each of their parts, named by its vshards, and nothing in the default one. Their files stay those of the
// checkpoint, so the next checkpoint shares them.
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/experimental.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/executor.h"
#include "common/file.h"
#include "common/keys.h"
#include "common/parallel.h"
#include "ps/store/record_format.h"
#include "ps/store/row_store.h"
#include "ps/store/shared_copies.h"

namespace gatemill::ps {
namespace {

constexpr double kBloomBitsPerKey = 10.0;
constexpr std::size_t kBlockBytes = 2048;  // a MultiGet reads and checks one for nearly every row
constexpr std::size_t kMultiGetKeys = 512;  // one RocksDB call
constexpr std::size_t kLookups = 32;        // such calls whose rows are in memory at a time
constexpr std::uint64_t kMergedFileBytes = 64ULL << 20;
constexpr int kRunsBeforeMerge = 16;
constexpr int kNeverFiles = 1 << 30;
constexpr int kRunsWhenLarge = 2;
constexpr std::uint64_t kMostGarbage = 2;             // as much as this times the oldest run: RocksDB's max_size_amplification_percent
constexpr std::uint64_t kLargeBytes = 512ULL << 20;
constexpr std::uint64_t kLargeRunBytes = 8ULL << 20;  // more than rows that go to make room
constexpr int kLevels = 48;                           // more than there are runs
constexpr std::size_t kMergeReadaheadBytes = 256U << 10;
constexpr std::size_t kScanReadaheadBytes = 2U << 20;
constexpr std::uint32_t kVshardsPerFileGroup = 16;    // a file ends only where such a group (or a table) ends
constexpr std::uint64_t kMinFileBytes = 16ULL << 20;  // smaller ones go on into the next group
constexpr std::uint64_t kMinTableFileBytes = 256ULL << 10;  // and still smaller ones into the next table
constexpr int kFilesOfTakeOver = 16;                  // of a checkpoint, open while its list of files is read
constexpr const char* kIngestDir = "/ingest/";

// RocksDB would write its log beside the data, into checkpoints too.
class SilentLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

// env: outlives the options and what is opened with them; null = the system's.
rocksdb::Options OptionsOf(const RowStoreOptions& store, rocksdb::Env* env) {
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
  if (env != nullptr) options.env = env;
  options.write_buffer_size = 64U << 10;  // nothing is ever put
  options.target_file_size_base = kMergedFileBytes;
  options.compaction_readahead_size = kMergeReadaheadBytes;
  // Merges take processor time from training: few of them, and after everything else.
  options.level0_file_num_compaction_trigger = kRunsBeforeMerge;
  options.num_levels = kLevels;
  // Nothing waits for them: RocksDB flushes before a checkpoint, and would wait until it may put again.
  options.level0_slowdown_writes_trigger = kNeverFiles;
  options.level0_stop_writes_trigger = kNeverFiles;
  options.soft_pending_compaction_bytes_limit = 0;  // none
  options.hard_pending_compaction_bytes_limit = 0;
  options.compaction_style = rocksdb::kCompactionStyleUniversal;
  options.compaction_options_universal.min_merge_width = 4;
  options.env->LowerThreadPoolCPUPriority(rocksdb::Env::Priority::LOW, rocksdb::CpuPriority::kLow);
  options.max_bgerror_resume_count = 0;  // see ErrorListener
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

// Of a read: a block that the disk cannot give is lost as one with a wrong checksum is.
Status FromRead(const rocksdb::Status& status, const std::string& path) {
  const Status mapped = FromRocks(status, path);
  if (mapped.code() != Code::kInternal || mapped.message().find(std::strerror(EIO)) == std::string::npos) return mapped;
  return DataLoss(mapped.message() + "; use another checkpoint");
}

Status Unreadable(const std::string& path) {
  return DataLoss("row store " + path + ": a record is damaged or of an unknown format; use another checkpoint");
}

rocksdb::Slice SliceOf(const RecordKey& key) { return {key.data(), key.size()}; }

// Reads a file's first and last record. RocksDB takes for granted that it can read them when it ingests or imports a file:
// otherwise it has the file stand for no keys, or ends the process. After this it finds both in its cache, unless other reads
// have pushed them out by then.
rocksdb::Status ReadEnds(const rocksdb::Options& options, const std::string& path) {
  rocksdb::SstFileReader reader(options);
  const rocksdb::Status opened = reader.Open(path);
  if (!opened.ok()) return opened;
  const std::unique_ptr<rocksdb::Iterator> at(reader.NewIterator(rocksdb::ReadOptions()));
  at->SeekToFirst();  // on to the first row: a file of erased keys alone has none
  if (at->status().ok()) at->SeekToLast();
  return at->status();
}

// ---- parts --------------------------------------------------------------------------------------------------------------

struct Part {
  VshardRange vshards;
  rocksdb::ColumnFamilyHandle* family;  // its database's
};

constexpr const char* kPartName = "vshards-%u-%u";

std::string NameOfPart(VshardRange vshards) {
  std::array<char, 40> name;
  std::snprintf(name.data(), name.size(), kPartName, vshards.first, vshards.end);
  return name.data();
}

bool ParsePartName(const std::string& name, VshardRange* vshards) {
  return std::sscanf(name.c_str(), kPartName, &vshards->first, &vshards->end) == 2 && vshards->first < vshards->end &&
         vshards->end <= kNumVshards && NameOfPart(*vshards) == name;
}

VshardRange Common(VshardRange a, VshardRange b) {
  return {.first = std::max(a.first, b.first), .end = std::min(a.end, b.end)};
}
bool IsEmpty(VshardRange vshards) { return vshards.first >= vshards.end; }

// Of one RocksDB that is written to. Without it, and without max_bgerror_resume_count = 0, RocksDB would mend itself after an error by
// threads of its own, while its files go to another; and of a merge that fails nobody else hears, though it is the last one then.
// Thread safety: any thread.
class ErrorListener final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status /*error*/, bool* auto_recovery) override {
    *auto_recovery = false;
  }
  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status* error) override { Look(*error); }
  void Look(const rocksdb::Status& status) {
    if (status.IsIOError()) failed_ = true;
  }
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  std::atomic<bool> failed_ = false;
};

// One RocksDB and the parts that it has, in ascending order.
class Database {
 public:
  Database(std::string dir, std::unique_ptr<rocksdb::DB> db, std::shared_ptr<ErrorListener> errors)
      : dir_(std::move(dir)), errors_(std::move(errors)), db_(std::move(db)) {}
  ~Database() {
    for (rocksdb::ColumnFamilyHandle* family : families_) (void)db_->DestroyColumnFamilyHandle(family);
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // An empty one, in a directory that does not exist.
  static Result<std::shared_ptr<Database>> Create(rocksdb::Options options, const std::string& dir) {
    auto errors = std::make_shared<ErrorListener>();
    options.listeners.push_back(errors);
    rocksdb::DB* opened = nullptr;
    GM_RETURN_IF_ERROR(FromRocks(rocksdb::DB::Open(options, dir, &opened), dir));
    return std::make_shared<Database>(dir, std::unique_ptr<rocksdb::DB>(opened), std::move(errors));
  }

  // A checkpoint.
  static Result<std::shared_ptr<Database>> OpenReadOnly(const rocksdb::Options& options, const std::string& dir) {
    if (!FileExists(dir + "/CURRENT")) {
      return InvalidInput(dir + " is no row store (it has no file CURRENT); give the directory of a checkpoint's shard");
    }
    std::vector<std::string> names;
    rocksdb::Status status = rocksdb::DB::ListColumnFamilies(options, dir, &names);
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    for (const std::string& name : names) descriptors.emplace_back(name, rocksdb::ColumnFamilyOptions(options));
    std::vector<rocksdb::ColumnFamilyHandle*> families;
    rocksdb::DB* opened = nullptr;
    if (status.ok()) status = rocksdb::DB::OpenForReadOnly(rocksdb::DBOptions(options), dir, descriptors, &families, &opened);
    if (!status.ok()) return FromFiles(status, dir);
    auto database = std::make_shared<Database>(dir, std::unique_ptr<rocksdb::DB>(opened), std::make_shared<ErrorListener>());
    database->families_ = families;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] == rocksdb::kDefaultColumnFamilyName) {
        if (names.size() == 1) database->parts_ = {{.vshards = {}, .family = families[i]}};
        continue;
      }
      VshardRange vshards;
      if (!ParsePartName(names[i], &vshards)) {
        return DataLoss("row store " + dir + ": '" + names[i] + "' is no part of a store; use another checkpoint");
      }
      database->AddPart({.vshards = vshards, .family = families[i]});
    }
    return database;
  }

  // Of files that the store's own list names.
  static Status FromFiles(const rocksdb::Status& status, const std::string& dir) {
    const Status mapped = FromRead(status, dir);
    if (mapped.code() != Code::kInternal || status.IsNoSpace()) return mapped;
    const std::string text = status.ToString();
    for (const int error : {EDQUOT, EROFS, ENOMEM, EMLINK, ESTALE, ETIMEDOUT}) {  // of the host or the network, not of the file
      if (text.find(std::strerror(error)) != std::string::npos) return mapped;
    }
    if (text.find(std::strerror(EACCES)) != std::string::npos) {
      return Unavailable("row store " + dir + ": " + text + "; run as a user who may read it");
    }
    // One that cannot be read is damage to whoever needs it, whatever the system calls it.
    return DataLoss("row store " + dir + ": " + text + "; use another checkpoint");
  }

  // All vshards in the default part.
  void MakeWhole() { parts_ = {{.vshards = {}, .family = db_->DefaultColumnFamily()}}; }

  // A part whose rows are in `files`, which are moved or copied; none: an empty one.
  rocksdb::Status Import(const rocksdb::Options& options, VshardRange vshards, bool move,
                         std::vector<rocksdb::LiveFileMetaData> files) {
    rocksdb::ColumnFamilyHandle* family = nullptr;
    rocksdb::Status status;
    if (files.empty()) {
      status = db_->CreateColumnFamily(rocksdb::ColumnFamilyOptions(options), NameOfPart(vshards), &family);
    } else {
      rocksdb::ExportImportFilesMetaData metadata;
      metadata.db_comparator_name = options.comparator->Name();
      metadata.files = std::move(files);
      rocksdb::ImportColumnFamilyOptions import;
      import.move_files = move;
      status = db_->CreateColumnFamilyWithImport(rocksdb::ColumnFamilyOptions(options), NameOfPart(vshards), import, metadata,
                                                 &family);
    }
    if (!status.ok()) return status;
    families_.push_back(family);
    AddPart({.vshards = vshards, .family = family});
    return status;
  }

  // files: of each part.
  Status Ingest(const std::vector<std::vector<std::string>>& files) {
    std::vector<rocksdb::IngestExternalFileArg> arguments;
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (files[i].empty()) continue;
      rocksdb::IngestExternalFileArg& part = arguments.emplace_back();
      part.column_family = parts_[i].family;
      part.external_files = files[i];
      part.options.move_files = true;
      part.options.write_global_seqno = false;  // files stay as written: checkpoints link to them
    }
    if (arguments.empty()) return Ok();
    const std::vector<Run> runs = LargeRuns(arguments);
    rocksdb::Status ingested;
    for (const Run& run : runs) {  // a merge that begins in between would have them in level 0
      if (ingested.ok()) ingested = SetMerges(run.family, false);
    }
    if (ingested.ok()) ingested = Listed(db_->IngestExternalFiles(arguments));
    for (const Run& run : runs) {
      // Where they cannot be moved they are merged sooner, that is all.
      if (ingested.ok() && !worn_out()) (void)Listed(rocksdb::experimental::PromoteL0(db_.get(), run.family, run.level));
      (void)SetMerges(run.family, true);
    }
    for (const Run& run : runs) LimitSize(run.family);
    for (rocksdb::ColumnFamilyHandle* family : std::set<rocksdb::ColumnFamilyHandle*>(large_)) LimitSize(family);
    GM_RETURN_IF_ERROR(FromRocks(ingested, dir_));
    ReadReadersBytes();
    return Ok();
  }

  void ReadReadersBytes() {
    std::uint64_t bytes = 0;
    if (db_->GetAggregatedIntProperty(rocksdb::DB::Properties::kEstimateTableReadersMem, &bytes)) readers_bytes_ = bytes;
  }

  // It could not write (a full disk) its list of files, or what it merged. What it has can still be read; it merges no more, and to write
  // to it again could end the process.
  [[nodiscard]] bool worn_out() const { return errors_->failed(); }

  [[nodiscard]] const std::string& dir() const { return dir_; }
  [[nodiscard]] rocksdb::DB* db() const { return db_.get(); }
  [[nodiscard]] const std::vector<Part>& parts() const { return parts_; }
  // Of the files' indexes and filters, when rows were last written.
  [[nodiscard]] std::uint64_t readers_bytes() const { return readers_bytes_; }

  // The number of a vshard's part, parts().size() when it has none.
  [[nodiscard]] std::size_t PartOf(std::uint32_t vshard) const {
    const auto after = std::upper_bound(parts_.begin(), parts_.end(), vshard, [](std::uint32_t wanted, const Part& part) {
      return wanted < part.vshards.first;
    });
    if (after == parts_.begin() || std::prev(after)->vshards.end <= vshard) return parts_.size();
    return static_cast<std::size_t>(std::prev(after) - parts_.begin());
  }

 private:
  // The files of one write lie one behind the other and are a run together. In level 0, where they arrive, RocksDB takes each for
  // a run of its own, and merges them at once when they are many; so they go on into the lowest level above all others.
  struct Run {
    rocksdb::ColumnFamilyHandle* family = nullptr;
    int level = 0;
  };
  [[nodiscard]] std::vector<Run> LargeRuns(const std::vector<rocksdb::IngestExternalFileArg>& arguments) const {
    std::vector<Run> runs;
    for (const rocksdb::IngestExternalFileArg& part : arguments) {
      std::uint64_t bytes = 0;
      for (const std::string& file : part.external_files) {
        const Result<std::uint64_t> size = FileSize(file);
        if (size.ok()) bytes += *size;
      }
      if (bytes < kLargeRunBytes) continue;
      rocksdb::ColumnFamilyMetaData all;
      db_->GetColumnFamilyMetaData(part.column_family, &all);
      std::size_t level = 0;  // the first that is in use
      while (level < all.levels.size() && all.levels[level].files.empty()) ++level;
      if (level > 1) runs.push_back({.family = part.column_family, .level = static_cast<int>(level) - 1});
    }
    return runs;
  }
  rocksdb::Status SetMerges(rocksdb::ColumnFamilyHandle* family, bool on) {
    return SetOption(family, "disable_auto_compactions", on ? "false" : "true");
  }
  // RocksDB writes its list of files for it. One that is worn out stays as it is.
  rocksdb::Status SetOption(rocksdb::ColumnFamilyHandle* family, const char* name, const std::string& value) {
    return worn_out() ? rocksdb::Status::OK() : Listed(db_->SetOptions(family, {{name, value}}));
  }
  // What came of a call that writes RocksDB's list of files.
  rocksdb::Status Listed(const rocksdb::Status& status) {
    errors_->Look(status);
    return status;
  }
  // RocksDB looks at sizes only when there are kRunsBeforeMerge runs: of large ones it shall before.
  void LimitSize(rocksdb::ColumnFamilyHandle* family) {
    rocksdb::ColumnFamilyMetaData all;
    db_->GetColumnFamilyMetaData(family, &all);
    std::uint64_t oldest = 0;
    for (const rocksdb::LevelMetaData& level : all.levels) oldest = level.size == 0 ? oldest : level.size;
    const bool large = all.size > kLargeBytes && all.size - oldest > kMostGarbage * oldest;
    if (large != large_.contains(family)) {
      const int runs = large ? kRunsWhenLarge : kRunsBeforeMerge;
      (void)SetOption(family, "level0_file_num_compaction_trigger", std::to_string(runs));
      if (large) large_.insert(family);
      if (!large) large_.erase(family);
    }
  }

  void AddPart(const Part& part) {
    const auto at = std::find_if(parts_.begin(), parts_.end(), [&](const Part& other) {
      return other.vshards.first > part.vshards.first;
    });
    parts_.insert(at, part);
  }

  std::string dir_;
  std::shared_ptr<ErrorListener> errors_;  // db_ tells it
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;  // to be given back before db_ goes
  std::set<rocksdb::ColumnFamilyHandle*> large_;        // that are to be merged soon; of who writes
  std::vector<Part> parts_;
  std::atomic<std::uint64_t> readers_bytes_ = 0;
};

class RocksBulkWriter final : public RowStore::BulkWriter {
 public:
  // What becomes of the files, which are given for each part.
  using TakeFiles = std::function<Status(const std::vector<std::vector<std::string>>&)>;

  // Files are named `prefix`-0.sst, ...
  RocksBulkWriter(std::shared_ptr<Database> database, rocksdb::Options options, std::string prefix, TakeFiles take)
      : database_(std::move(database)),
        options_(std::move(options)),
        prefix_(std::move(prefix)),
        take_(std::move(take)),
        parts_(database_->parts().size()) {}

  ~RocksBulkWriter() override {
    closer_.reset();
    for (PartFiles& part : parts_) {
      part.writer.reset();
      // What is left was not ingested; a file that stays behind goes with the scratch directory.
      for (const std::string& file : part.files) (void)RemoveTree(file);
    }
  }

  Status Add(StoreKey key, std::span<const float> values, const RowHeader& header) override {
    GM_ASSIGN_OR_RETURN(PartFiles* const part, GoTo(key));
    EncodeRecord(values, header, &record_);
    return FromRocks(part->writer->Put(SliceOf(last_key_), record_), part->files.back());
  }

  Status Erase(StoreKey key) override {
    GM_ASSIGN_OR_RETURN(PartFiles* const part, GoTo(key));
    return FromRocks(part->writer->Delete(SliceOf(last_key_)), part->files.back());
  }

  Status Finish() override {
    std::vector<std::vector<std::string>> files;
    for (PartFiles& part : parts_) {
      // The last one of all needs no thread.
      if (part.writer != nullptr) GM_RETURN_IF_ERROR(FromRocks(part.writer->Finish(), part.files.back()));
      part.writer.reset();
      files.push_back(part.files);
    }
    GM_RETURN_IF_ERROR(AwaitClosed());
    for (const std::vector<std::string>& of_part : files) {
      for (const std::string& file : of_part) GM_RETURN_IF_ERROR(CheckWritten(file));
    }
    GM_RETURN_IF_ERROR(take_(files));
    for (PartFiles& part : parts_) part.files.clear();
    rows_ = 0;
    return Ok();
  }

 private:
  struct PartFiles {
    std::unique_ptr<rocksdb::SstFileWriter> writer;
    std::vector<std::string> files;
    std::uint64_t group = 0;  // of vshards, that the writer is in
  };

  // The files of the key's part, with one open for it.
  Result<PartFiles*> GoTo(StoreKey key) {
    const RecordKey record_key = EncodeRecordKey(key);
    const std::uint32_t vshard = VshardOf(key.key);
    if (rows_ != 0 && SliceOf(last_key_).compare(SliceOf(record_key)) >= 0) {
      return Internal("row store: rows added out of (table, vshard, key) order");
    }
    const std::size_t number = database_->PartOf(vshard);
    if (number == parts_.size()) return Internal("row store: a row of vshard " + std::to_string(vshard) + ", which is not its");
    PartFiles* const part = &parts_[number];
    const std::uint64_t group = (static_cast<std::uint64_t>(key.table) << 32) | (vshard / kVshardsPerFileGroup);
    // Where a table ends earlier: a file with rows of the next would lie across everything between.
    const bool next_table = group >> 32 != part->group >> 32;
    if (part->writer != nullptr && group != part->group &&
        part->writer->FileSize() >= (next_table ? kMinTableFileBytes : kMinFileBytes)) {
      GM_RETURN_IF_ERROR(CloseFile(part));
    }
    if (part->writer == nullptr) GM_RETURN_IF_ERROR(OpenFile(part));
    part->group = group;
    last_key_ = record_key;
    ++rows_;
    return part;
  }

  Status OpenFile(PartFiles* part) {
    part->files.push_back(prefix_ + "-" + std::to_string(next_file_++) + ".sst");
    // The file's pages stay in the system's cache: its rows may be back soon.
    part->writer = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(), options_, nullptr, false);
    return FromRocks(part->writer->Open(part->files.back()), part->files.back());
  }

  // Beside the next file: it waits until the disk has all of it. One at a time, so that the disk is never far behind.
  Status CloseFile(PartFiles* part) {
    GM_RETURN_IF_ERROR(AwaitClosed());
    if (closer_ == nullptr) closer_ = std::make_unique<ThreadExecutor>();
    closer_->Run([this, writer = std::shared_ptr(std::move(part->writer)), file = part->files.back()] {
      closed_ = FromRocks(writer->Finish(), file);
    });
    return Ok();
  }
  // What cannot be read back is not lost yet: whoever writes has it.
  [[nodiscard]] Status CheckWritten(const std::string& file) const {
    const Status read = FromRocks(ReadEnds(options_, file), file);
    return read.code() == Code::kDataLoss ? Internal("what was written cannot be read back: " + read.message()) : read;
  }
  Status AwaitClosed() {
    if (closer_ != nullptr) closer_->Drain();
    return closed_;
  }

  std::shared_ptr<Database> database_;
  rocksdb::Options options_;
  std::string prefix_;
  std::unique_ptr<ThreadExecutor> closer_;  // made for the first file that another follows
  Status closed_;                           // of the file that was closed last; its job's until AwaitClosed
  TakeFiles take_;
  std::vector<PartFiles> parts_;
  std::uint64_t next_file_ = 0;
  std::uint64_t rows_ = 0;
  RecordKey last_key_{};
  std::string record_;
};

class RocksRowStore final : public RowStore {
 public:
  // An empty `dir` makes the store read-only.
  RocksRowStore(std::string dir, const RowStoreOptions& options)
      : dir_(std::move(dir)),
        cache_bytes_(options.cache_bytes),
        env_(options.file_system != nullptr ? rocksdb::NewCompositeEnv(options.file_system) : nullptr),
        options_(OptionsOf(options, env_.get())),
        readers_(options.read_threads) {}

  // One of these, first.
  Status Create() {
    GM_ASSIGN_OR_RETURN(database_, NewDatabase());
    database_->MakeWhole();
    return Ok();
  }
  Status OpenReadOnly(const std::string& dir) {
    GM_ASSIGN_OR_RETURN(database_, Database::OpenReadOnly(options_, dir));
    return Ok();
  }

  Result<std::unique_ptr<BulkWriter>> NewBulkWriter() override {
    GM_RETURN_IF_ERROR(CheckWritable());
    GM_RETURN_IF_ERROR(ReplaceWornOut());
    const std::shared_ptr<Database> current = database();
    return std::unique_ptr<BulkWriter>(std::make_unique<RocksBulkWriter>(
        current, options_, NextIngestPath(), [current](const auto& files) { return current->Ingest(files); }));
  }

  Result<std::unique_ptr<BulkWriter>> NewReplacement() override {
    GM_RETURN_IF_ERROR(CheckWritable());
    GM_ASSIGN_OR_RETURN(const std::shared_ptr<Database> made, NewDatabase());
    made->MakeWhole();
    return std::unique_ptr<BulkWriter>(std::make_unique<RocksBulkWriter>(made, options_, NextIngestPath(),
                                                                         [this, made](const auto& files) {
                                                                           GM_RETURN_IF_ERROR(made->Ingest(files));
                                                                           Exchange(made);
                                                                           return Ok();
                                                                         }));
  }

  Status MultiGet(std::span<const StoreKey> keys, const VisitFound& visit) override {
    const std::shared_ptr<Database> current = database();
    for (std::size_t begin = 0; begin < keys.size(); begin += kLookups * kMultiGetKeys) {
      const std::span<const StoreKey> batch = keys.subspan(begin, std::min(kLookups * kMultiGetKeys, keys.size() - begin));
      const std::size_t lookups = (batch.size() + kMultiGetKeys - 1) / kMultiGetKeys;
      lookups_.resize(std::max(lookups_.size(), lookups));
      readers_.For(static_cast<std::int64_t>(lookups), 1, [&](std::int64_t first, std::int64_t end) {
        for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(end); ++i) {
          const std::size_t at = i * kMultiGetKeys;
          lookups_[i].status = LookUp(*current, batch.subspan(at, std::min(kMultiGetKeys, batch.size() - at)), &lookups_[i]);
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
    const std::shared_ptr<Database> current = database();
    for (const Part& part : current->parts()) {
      const VshardRange vshards = Common(part.vshards, {.first = first_vshard, .end = end_vshard});
      if (!IsEmpty(vshards)) GM_RETURN_IF_ERROR(ScanPart(*current, part, table, vshards, visit));
    }
    return Ok();
  }

  Status Checkpoint(const std::string& dir, const VisitCopied& copied) override {
    GM_RETURN_IF_ERROR(CheckWritable());
    if (FileExists(dir)) return InvalidInput("checkpoint directory " + dir + " exists already; give a new one");
    GM_RETURN_IF_ERROR(ReplaceWornOut());
    if (OnAnotherDisk(dir)) return CopyFiles(dir, copied);
    rocksdb::Checkpoint* made = nullptr;
    GM_RETURN_IF_ERROR(FromRocks(rocksdb::Checkpoint::Create(database()->db(), &made), dir));
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
    return FromRocks(checkpoint->CreateCheckpoint(dir), dir);
  }

  Status Replace(std::span<const Source> sources, std::uint32_t /*num_tables*/) override {
    GM_RETURN_IF_ERROR(CheckWritable());
    GM_ASSIGN_OR_RETURN(const std::shared_ptr<Database> made, NewDatabase());
    Status status;
    if (sources.empty()) made->MakeWhole();
    for (const Source& source : sources) {
      if (status.ok()) status = TakeOver(source, made.get());
    }
    if (status.ok()) {
      made->ReadReadersBytes();
      Exchange(made);
    }
    return status;
  }

  [[nodiscard]] std::uint64_t memory_bytes() const override {
    return cache_bytes_ + kRowStoreWriterBytes + database()->readers_bytes();
  }

 private:
  [[nodiscard]] Status CheckWritable() const {
    return dir_.empty() ? Internal("row store " + database()->dir() + " is open for reading only") : Ok();
  }

  std::string NextIngestPath() { return dir_ + kIngestDir + std::to_string(next_writer_++); }

  // A new database's files go with it, unless it becomes the store's.
  Result<std::shared_ptr<Database>> NewDatabase() {
    const std::string dir = dir_ + "/db-" + std::to_string(next_database_++);
    GM_ASSIGN_OR_RETURN(std::shared_ptr<Database> made, Database::Create(options_, dir));
    Database* const database = made.get();
    return std::shared_ptr<Database>(database, [dir, owner = std::move(made)](Database*) mutable {
      owner.reset();
      (void)RemoveTree(dir);  // what stays behind goes with the scratch directory
    });
  }

  // Cheaper than deleting row by row, and the space is free at once (checkpoints keep their links).
  void Exchange(std::shared_ptr<Database> made) {
    copies_.Forget();  // its files may have the same names
    const std::lock_guard lock(mutex_);
    database_.swap(made);
  }
  [[nodiscard]] std::shared_ptr<Database> database() const {
    const std::lock_guard lock(mutex_);
    return database_;
  }

  // By who writes. All rows are in files, which go to a new one, each into the level that it was in; what was changed of its options is
  // found out anew, as after a restore. The store is as it was when it fails.
  Status ReplaceWornOut() {
    const std::shared_ptr<Database> old = database();
    if (!old->worn_out()) return Ok();
    GM_ASSIGN_OR_RETURN(const FilesHeld held, HoldFiles(*old));  // it may merge meanwhile
    GM_ASSIGN_OR_RETURN(const std::shared_ptr<Database> made, NewDatabase());
    GM_RETURN_IF_ERROR(TakeFiles(*old, {}, FromRocks, made.get()));  // they could be read: what fails now fails in writing
    made->ReadReadersBytes();
    Exchange(made);
    return Ok();
  }

  // While it lives no file of a database goes.
  using FilesHeld = std::unique_ptr<rocksdb::DB, void (*)(rocksdb::DB*)>;
  static Result<FilesHeld> HoldFiles(const Database& database) {
    GM_RETURN_IF_ERROR(FromRocks(database.db()->DisableFileDeletions(), database.dir()));
    return FilesHeld(database.db(), [](rocksdb::DB* held) { (void)held->EnableFileDeletions(/*force=*/false); });
  }

  [[nodiscard]] bool OnAnotherDisk(const std::string& dir) const {
    struct stat ours {};
    struct stat theirs {};
    const std::string parent = std::filesystem::path(dir).parent_path().string();
    return ::stat(dir_.c_str(), &ours) == 0 && ::stat(parent.c_str(), &theirs) == 0 && ours.st_dev != theirs.st_dev;
  }

  // RocksDB's own checkpoint would copy all of them, every time.
  Status CopyFiles(const std::string& dir, const VisitCopied& copied) {
    const std::shared_ptr<Database> current = database();
    GM_ASSIGN_OR_RETURN(const FilesHeld held, HoldFiles(*current));
    std::vector<rocksdb::LiveFileStorageInfo> live;
    GM_RETURN_IF_ERROR(FromRocks(current->db()->GetLiveFilesStorageInfo(rocksdb::LiveFilesStorageInfoOptions(), &live), dir_));
    std::vector<FileToCopy> files;
    for (const rocksdb::LiveFileStorageInfo& file : live) {
      files.push_back({.from = file.directory + "/" + file.relative_filename,
                       .name = file.relative_filename,
                       .bytes = file.size,
                       .immutable = file.file_type == rocksdb::kTableFile,
                       .contents = std::nullopt});
      if (!file.replacement_contents.empty()) files.back().contents = file.replacement_contents;
    }
    return copies_.Write(files, dir, copied);
  }

  // Adds what a checkpoint has of source.vshards to `into`.
  Status TakeOver(const Source& source, Database* into) {
    rocksdb::Options options = options_;
    options.max_open_files = kFilesOfTakeOver;  // the list of files is all that is read
    const Result<std::shared_ptr<Database>> opened = Database::OpenReadOnly(options, source.dir);
    if (opened.status().code() == Code::kInvalidInput) return DataLoss(opened.status().message());  // its files are gone
    GM_RETURN_IF_ERROR(opened.status());
    return TakeFiles(**opened, source.vshards, FromRead, into);  // it writes to our own disk, too
  }

  // The same of an open one, none of whose files goes meanwhile. name: of what RocksDB says to the import.
  Status TakeFiles(const Database& from, VshardRange of, Status (*name)(const rocksdb::Status&, const std::string&), Database* into) {
    std::vector<rocksdb::LiveFileMetaData> files;
    from.db()->GetLiveFilesMetaData(&files);
    for (const Part& part : from.parts()) {
      const VshardRange vshards = Common(part.vshards, of);
      if (IsEmpty(vshards)) continue;
      std::vector<rocksdb::LiveFileMetaData> wanted;
      for (const rocksdb::LiveFileMetaData& file : files) {
        if (file.column_family_name != part.family->GetName() || !MayHold(file, vshards)) continue;
        const std::string path = file.db_path + file.name;
        GM_RETURN_IF_ERROR(Database::FromFiles(ReadEnds(options_, path), path));
        wanted.push_back(file);
      }
      const std::string links = NextIngestPath();
      Result<bool> linked = LinkFiles(&wanted, links);
      Status imported = linked.status();
      if (imported.ok()) imported = name(into->Import(options_, vshards, *linked, std::move(wanted)), from.dir());
      (void)RemoveTree(links);  // empty, or copied from
      GM_RETURN_IF_ERROR(imported);
    }
    return Ok();
  }

  // Links in `dir` in the place of the files, to be moved from there; false: they are on another disk and stay as they are.
  static Result<bool> LinkFiles(std::vector<rocksdb::LiveFileMetaData>* files, const std::string& dir) {
    GM_RETURN_IF_ERROR(MakeDirs(dir));
    for (rocksdb::LiveFileMetaData& file : *files) {
      const std::string from = file.db_path + file.name;
      std::error_code error;
      std::filesystem::create_hard_link(from, dir + file.name, error);
      if (error == std::errc::cross_device_link || error == std::errc::operation_not_permitted ||
          error == std::errc::operation_not_supported || error == std::errc::too_many_links) {
        return false;
      }
      if (error == std::errc::no_such_file_or_directory) return DataLoss(from + " is missing; use another checkpoint");
      const bool full = error == std::errc::no_space_on_device || error.value() == EDQUOT;
      if (error) return Internal(from + " cannot be linked to " + dir + ": " + error.message() + (full ? "; free disk space" : ""));
    }
    for (rocksdb::LiveFileMetaData& file : *files) file.db_path = file.directory = dir;
    return true;
  }

  // May a file have rows of these vshards? Where it has several tables their vshards lie between one another.
  static bool MayHold(const rocksdb::LiveFileMetaData& file, VshardRange vshards) {
    StoreKey first;
    StoreKey last;
    if (!DecodeRecordKey(file.smallestkey, &first) || !DecodeRecordKey(file.largestkey, &last)) return true;
    if (first.table != last.table) return true;
    return !IsEmpty(Common({.first = VshardOf(first.key), .end = VshardOf(last.key) + 1}, vshards));
  }

  static Status ScanPart(const Database& database, const Part& part, std::uint32_t table, VshardRange vshards,
                         const VisitRow& visit) {
    const RecordKey begin = FirstRecordKey(table, vshards.first);
    const RecordKey end = FirstRecordKey(table, vshards.end);
    const rocksdb::Slice upper = SliceOf(end);
    rocksdb::ReadOptions read;
    read.iterate_upper_bound = &upper;
    // A few vshards are less than that: there RocksDB reads ahead as it sees fit.
    if (vshards.end - vshards.first > kVshardsPerFileGroup) read.readahead_size = kScanReadaheadBytes;
    read.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> at(database.db()->NewIterator(read, part.family));
    std::vector<float> values;
    RowHeader header;
    for (at->Seek(SliceOf(begin)); at->Valid(); at->Next()) {
      StoreKey key;
      if (!DecodeRecordKey(at->key().ToStringView(), &key) ||
          !DecodeRecord(at->value().ToStringView(), &values, &header)) {
        return Unreadable(database.dir());
      }
      GM_RETURN_IF_ERROR(visit(key.key, values, header));
    }
    return FromRead(at->status(), database.dir());
  }

  // One RocksDB call for each part, and what it found.
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
  static Status LookUp(const Database& database, std::span<const StoreKey> keys, Lookup* lookup) {
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
    for (std::size_t begin = 0; begin < keys.size();) {
      const std::size_t part = database.PartOf(VshardOf(keys[begin].key));
      std::size_t end = begin + 1;
      while (end < keys.size() && database.PartOf(VshardOf(keys[end].key)) == part) ++end;
      if (part < database.parts().size()) {
        GM_RETURN_IF_ERROR(LookUpIn(database, database.parts()[part], begin, end, lookup));
      }
      begin = end;
    }
    return Ok();
  }

  // The lookup's keys in [begin, end), which are of one part.
  static Status LookUpIn(const Database& database, const Part& part, std::size_t begin, std::size_t end, Lookup* lookup) {
    const std::span<const rocksdb::Slice> asked = std::span(lookup->slices).subspan(begin, end - begin);
    const bool sorted =
        std::is_sorted(asked.begin(), asked.end(), [](const auto& a, const auto& b) { return a.compare(b) < 0; });
    database.db()->MultiGet(rocksdb::ReadOptions(), part.family, asked.size(), asked.data(), lookup->records.data() + begin,
                            lookup->statuses.data() + begin, sorted);
    Status status;
    for (std::size_t i = begin; i < end; ++i) {
      if (status.ok() && lookup->statuses[i].ok()) {
        FoundRow row{.key = i, .first_value = lookup->values.size(), .num_values = 0, .header = {}};
        if (DecodeRecord(lookup->records[i].ToStringView(), &lookup->row, &row.header)) {
          row.num_values = lookup->row.size();
          lookup->values.insert(lookup->values.end(), lookup->row.begin(), lookup->row.end());
          lookup->found.push_back(row);
        } else {
          status = Unreadable(database.dir());
        }
      } else if (status.ok() && !lookup->statuses[i].IsNotFound()) {
        status = FromRead(lookup->statuses[i], database.dir());
      }
      lookup->records[i].Reset();
    }
    return status;
  }

  std::string dir_;
  std::uint64_t cache_bytes_;
  std::unique_ptr<rocksdb::Env> env_;  // null = the system's; outlives all that is opened with it
  rocksdb::Options options_;
  std::atomic<std::uint64_t> next_writer_ = 0;
  std::atomic<std::uint64_t> next_database_ = 0;
  mutable std::mutex mutex_;
  std::shared_ptr<Database> database_;  // guarded by mutex_; another may take its place while it is read
  SharedCopies copies_;  // of database_, where links cannot be
  ThreadPool readers_;
  std::vector<Lookup> lookups_;  // scratch of MultiGet
};

}  // namespace

Result<std::unique_ptr<RowStore>> CreateRowStore(const std::string& dir, const RowStoreOptions& options) {
  GM_RETURN_IF_ERROR(RemoveTree(dir));
  GM_RETURN_IF_ERROR(MakeDirs(dir + kIngestDir));
  auto store = std::make_unique<RocksRowStore>(dir, options);
  GM_RETURN_IF_ERROR(store->Create());
  return std::unique_ptr<RowStore>(std::move(store));
}

Result<std::unique_ptr<RowStore>> OpenRowStoreReadOnly(const std::string& dir) {
  auto store = std::make_unique<RocksRowStore>("", RowStoreOptions());
  GM_RETURN_IF_ERROR(store->OpenReadOnly(dir));
  return std::unique_ptr<RowStore>(std::move(store));
}

}  // namespace gatemill::ps
