// The threads behind a BatchStream. In memory: one makes batches. From files: one more reads windows (and CsvSource's two
// inflate and split), so that a window is read while the one before it is used.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "worker/data/batch_assembler.h"
#include "worker/data/bounded_queue.h"
#include "worker/data/columns.h"
#include "worker/data/dataset.h"
#include "worker/data/part_reader.h"

namespace gatemill::data {
namespace {

constexpr std::chrono::milliseconds kPollClosed{100};

struct Window {
  std::shared_ptr<const Columns> columns;
  std::vector<std::uint32_t> order;  // rows of `columns`
};

Status CheckOptions(const BatchOptions& options) {
  if (options.global_batch_size == 0) return InvalidInput("the batch size is 0; it must be at least 1");
  if (options.num_workers == 0 || options.worker >= options.num_workers) {
    return Internal("worker " + std::to_string(options.worker) + " of " + std::to_string(options.num_workers));
  }
  return Ok();
}

// Where the windows of an epoch come from.
class WindowSource {
 public:
  virtual ~WindowSource() = default;
  // The next window with `carried` rows of the last one in front, which its own order follows; nothing after the last.
  virtual Result<std::optional<Window>> Next(const Window& last, std::span<const std::uint32_t> carried) = 0;
  virtual void Stop() = 0;  // makes a waiting Next return; from any thread
};

class OneWindow final : public WindowSource {
 public:
  OneWindow(std::shared_ptr<const Columns> columns, const BatchOptions& options)
      : columns_(std::move(columns)), options_(options) {}
  Result<std::optional<Window>> Next(const Window&, std::span<const std::uint32_t>) override {
    if (columns_ == nullptr) return std::optional<Window>();
    Window window;
    const auto rows = static_cast<std::uint32_t>(columns_->rows());
    window.order = EpochOrder(options_, 0, rows);
    const std::uint64_t done = std::min<std::uint64_t>(rows, options_.first_batch * options_.global_batch_size);
    window.order.erase(window.order.begin(), window.order.begin() + static_cast<std::ptrdiff_t>(done));
    window.columns = std::move(columns_);
    return std::optional<Window>(std::move(window));
  }
  void Stop() override {}

 private:
  std::shared_ptr<const Columns> columns_;
  BatchOptions options_;
};

// Windows of data.shuffle_rows rows straight from the files, read by a thread of their own.
class FileWindows final : public WindowSource {
 public:
  FileWindows(const ReadOptions& read, const Statistics& statistics, const BatchOptions& options, ColumnBuilder builder,
              std::unique_ptr<PartReader> reader)
      : read_(read), statistics_(statistics), options_(options), builder_(std::move(builder)), reader_(std::move(reader)) {
    thread_ = std::thread([this] { ReadAll(); });
  }
  ~FileWindows() override {
    FileWindows::Stop();
    thread_.join();
  }

  Result<std::optional<Window>> Next(const Window& last, std::span<const std::uint32_t> carried) override {
    std::optional<Result<Read>> read;
    while (!read) {
      if (windows_.drained()) return std::optional<Window>();
      read = windows_.Pop(kPollClosed);
    }
    if (!read->ok()) return read->status();
    return std::optional<Window>(MakeWindow(std::move(*read).value(), last, carried));
  }
  void Stop() override {
    stopped_ = true;
    windows_.Close();
  }

 private:
  struct Read {
    std::uint64_t window = 0;
    std::shared_ptr<Columns> columns;
  };

  Window MakeWindow(Read read, const Window& last, std::span<const std::uint32_t> carried) const {
    Window window;
    const auto rows = static_cast<std::uint32_t>(read.columns->rows());
    if (!carried.empty()) read.columns->AppendRows(*last.columns, carried);
    for (std::uint32_t i = 0; i < carried.size(); ++i) window.order.push_back(rows + i);
    const std::vector<std::uint32_t> order = EpochOrder(options_, read.window, rows);
    const std::uint64_t first = read.window * window_rows();
    const std::uint64_t start = options_.first_batch * options_.global_batch_size;
    const std::uint64_t done = std::min<std::uint64_t>(rows, start > first ? start - first : 0);
    window.order.insert(window.order.end(), order.begin() + static_cast<std::ptrdiff_t>(done), order.end());
    window.columns = std::move(read.columns);
    return window;
  }

  [[nodiscard]] std::uint64_t window_rows() const { return static_cast<std::uint64_t>(read_.data->shuffle_rows); }

  void ReadAll() {
    const Status status = ReadWindows();
    if (!status.ok()) windows_.Push(status);
    windows_.Close();
  }

  // Rows of windows that lie wholly before the first batch are counted, not converted.
  Status ReadWindows() {
    const std::uint64_t start = options_.first_batch * options_.global_batch_size;
    const std::uint64_t skipped = start / window_rows() * window_rows();
    std::uint64_t window = start / window_rows();
    while (!stopped_) {
      GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader_->Next());
      if (!block) break;
      std::span<const std::uint32_t> rows = block->rows;
      std::uint64_t sample = block->first_sample;
      const std::uint64_t skip = std::min<std::uint64_t>(rows.size(), skipped > sample ? skipped - sample : 0);
      rows = rows.subspan(skip);
      sample += skip;
      while (!rows.empty()) {
        const std::uint64_t take = std::min<std::uint64_t>(rows.size(), window_rows() - builder_.rows());
        GM_RETURN_IF_ERROR(builder_.Append(*reader_, *block, rows.first(take), sample));
        rows = rows.subspan(take);
        sample += take;
        if (builder_.rows() == window_rows() && !EmitWindow(window++)) return Ok();
      }
    }
    if (builder_.rows() > 0) EmitWindow(window);
    return Ok();
  }

  bool EmitWindow(std::uint64_t window) {
    const bool wanted = windows_.Push(Read{window, builder_.Finish(statistics_)});
    builder_ = ColumnBuilder(read_, {.sample_numbers = true});
    return wanted;
  }

  const ReadOptions read_;
  const Statistics statistics_;
  const BatchOptions options_;
  ColumnBuilder builder_;               // thread_ only
  std::unique_ptr<PartReader> reader_;  // thread_ only
  std::atomic<bool> stopped_{false};
  BoundedQueue<Result<Read>> windows_{1};
  std::thread thread_;
};

class ThreadedBatchStream final : public BatchStream {
 public:
  ThreadedBatchStream(std::unique_ptr<WindowSource> windows, const BatchOptions& options)
      : options_(options),
        windows_(std::move(windows)),
        assembler_(options),
        batches_(static_cast<std::size_t>(std::max(1, options.read_ahead))),
        index_(options.first_batch) {
    thread_ = std::thread([this] { MakeAll(); });
  }
  ~ThreadedBatchStream() override {
    batches_.Close();
    windows_->Stop();
    thread_.join();
  }

  Result<std::optional<Batch>> Next(int deadline_ms) override {
    std::optional<Result<Batch>> batch = batches_.Pop(std::chrono::milliseconds(deadline_ms));
    if (batch && !batch->ok()) return failure_.emplace(batch->status());
    if (batch) return std::optional<Batch>(std::move(*batch).value());
    if (!batches_.drained()) {
      return DeadlineExceeded("the data's threads made no batch within " + std::to_string(deadline_ms) + " ms");
    }
    if (failure_) return *failure_;
    return std::optional<Batch>();
  }

  void Recycle(Batch batch) override {
    const std::scoped_lock lock(mutex_);
    if (used_.size() <= static_cast<std::size_t>(std::max(1, options_.read_ahead))) used_.push_back(std::move(batch));
  }

 private:
  void MakeAll() {
    const Status status = MakeBatches();
    if (!status.ok()) batches_.Push(status);
    batches_.Close();
  }

  // A batch is made when it is known whether another follows: while more than a batch is left of the window, or after
  // the source has said that no window follows.
  Status MakeBatches() {
    const std::uint64_t size = options_.global_batch_size;
    Window window;
    std::size_t next = 0;  // into window.order
    while (true) {
      std::span<const std::uint32_t> left = std::span<const std::uint32_t>(window.order).subspan(next);
      for (; left.size() > size; left = left.subspan(size)) {
        if (!MakeBatch(window, left.first(size), false)) return Ok();
      }
      GM_ASSIGN_OR_RETURN(std::optional<Window> following, windows_->Next(window, left));
      if (batches_.closed()) return Ok();
      if (!following) {
        if (!left.empty()) MakeBatch(window, left, true);
        return Ok();
      }
      window = std::move(*following);
      next = 0;
    }
  }

  // This worker's part of one global batch. False when nobody takes it.
  bool MakeBatch(const Window& window, std::span<const std::uint32_t> rows, bool last) {
    const std::size_t begin = options_.worker * rows.size() / options_.num_workers;
    const std::size_t end = (options_.worker + 1) * rows.size() / options_.num_workers;
    Batch batch = UsedBatch();
    const std::int64_t begun_ns = clock_.NowNs();
    assembler_.Assemble(*window.columns, rows.subspan(begin, end - begin), &batch);
    batch.assemble_ns = clock_.NowNs() - begun_ns;
    batch.index = index_++;
    batch.global_rows = rows.size();
    batch.last_of_epoch = last;
    return batches_.Push(std::move(batch));
  }

  Batch UsedBatch() {
    const std::scoped_lock lock(mutex_);
    if (used_.empty()) return {};
    Batch batch = std::move(used_.back());
    used_.pop_back();
    return batch;
  }

  const BatchOptions options_;
  std::unique_ptr<WindowSource> windows_;
  BatchAssembler assembler_;             // thread_ only
  SystemClock clock_;
  BoundedQueue<Result<Batch>> batches_;
  std::uint64_t index_;                  // thread_ only
  std::optional<Status> failure_;        // the caller's thread only: said again to whoever asks again
  std::mutex mutex_;
  std::vector<Batch> used_;              // guarded by mutex_
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<BatchStream>> StreamDataset(std::shared_ptr<const Dataset> dataset,
                                                   const BatchOptions& options) {
  GM_RETURN_IF_ERROR(CheckOptions(options));
  auto columns = std::dynamic_pointer_cast<const Columns>(std::move(dataset));
  if (columns == nullptr) return Internal("StreamDataset: not a dataset of ReadDataset");
  return std::unique_ptr<BatchStream>(
      std::make_unique<ThreadedBatchStream>(std::make_unique<OneWindow>(std::move(columns), options), options));
}

Result<std::unique_ptr<BatchStream>> StreamFiles(const ReadOptions& read, Part part, const Statistics& statistics,
                                                 const BatchOptions& options) {
  GM_RETURN_IF_ERROR(CheckOptions(options));
  GM_RETURN_IF_ERROR(CheckStatistics(*read.schema, statistics));
  if (read.data->shuffle_rows < 1 || static_cast<std::uint64_t>(read.data->shuffle_rows) > kMaxRows / 2) {
    return InvalidInput("data.shuffle_rows is " + std::to_string(read.data->shuffle_rows) + "; it must be 1 to " +
                        std::to_string(kMaxRows / 2));
  }
  ColumnBuilder builder(read, {.sample_numbers = true});
  GM_ASSIGN_OR_RETURN(const PartSpec spec, ResolvePart(*read.data, part, nullptr));
  GM_ASSIGN_OR_RETURN(auto reader, PartReader::Open(*read.data, spec, builder.columns(), read.stop));
  auto windows = std::make_unique<FileWindows>(read, statistics, options, std::move(builder), std::move(reader));
  return std::unique_ptr<BatchStream>(std::make_unique<ThreadedBatchStream>(std::move(windows), options));
}

}  // namespace gatemill::data
