#include "launcher/bench_checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/random.h"
#include "launcher/bench_dir.h"
#include "launcher/output.h"
#include "ps/client.h"
#include "ps/server.h"
#include "worker/collective/collective.h"
#include "worker/train/checkpoint_saver.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

constexpr std::uint64_t kSeed = 1;
constexpr std::size_t kFillBatch = 32'768;  // keys of a push while the table fills
constexpr int kCallDeadlineMs = 60'000;
constexpr double kAloneSeconds = 3.0;  // of steps without a checkpoint, before and after
constexpr double kFullSpeed = 0.9;     // of the speed before the restore
constexpr double kMostSeconds = 300.0;

struct Args {
  std::int64_t rows = 10'000'000;
  int dim = 16;
  std::int64_t batch = 16'384;
  std::string optimizer = "adagrad";
  double changed = 0.01;
  int checkpoints = 20;
  int threads = 1;
  std::string dir;
  bool json = false;
};

struct Cost {
  double seconds = 0.0;
  std::uint64_t bytes = 0;  // of files that are new
};

struct Figures {
  Cost full;
  std::vector<Cost> changed;
  double alone_steps_per_s = 0.0;   // before and after
  double beside_steps_per_s = 0.0;
  double alone_longest_ms = 0.0;
  double beside_longest_ms = 0.0;
  double restore_s = 0.0;           // to the end of the first step
  double restored_speed_s = 0.0;    // to the first second of steps as fast as before
};

class Bench {
 public:
  explicit Bench(const Args& args) : args_(args), random_(kSeed, 1) {}

  Result<Figures> Run() {
    GM_RETURN_IF_ERROR(dir_.Make(args_.dir));
    workers_ = collective::NewLocalCollective();
    log_ = NewStderrLogger("", LogLevel::kWarn);
    GM_RETURN_IF_ERROR(StartServer("a"));
    train::CheckpointSaver saver({.checkpoints_dir = checkpoints_dir(),
                                  .keep = 2,
                                  .client = client_.get(),
                                  .workers = workers_.get(),
                                  .clock = &clock_,
                                  .log = log_.get(),
                                  .on_saved = [this](const train::SavedCheckpoint& saved) {
                                    saved_ = saved;
                                    return Ok();
                                  }});
    GM_RETURN_IF_ERROR(TouchAll());
    GM_ASSIGN_OR_RETURN(figures_.full, Save(&saver));
    for (int i = 0; i < args_.checkpoints; ++i) {
      GM_RETURN_IF_ERROR(TouchSome());
      GM_ASSIGN_OR_RETURN(const Cost cost, Save(&saver));
      figures_.changed.push_back(cost);
    }
    GM_RETURN_IF_ERROR(MeasureBeside(&saver));
    GM_RETURN_IF_ERROR(MeasureRestore());
    return figures_;
  }

 private:
  [[nodiscard]] std::string checkpoints_dir() const { return dir_.path() + "/checkpoints"; }
  [[nodiscard]] double SecondsSince(std::int64_t begun_ns) const {
    return static_cast<double>(clock_.NowNs() - begun_ns) * 1e-9;
  }

  Status StartServer(const std::string& name) {
    ps::TableSpec spec{.name = "rows", .dim = args_.dim};
    spec.optimizer.type = args_.optimizer;
    GM_ASSIGN_OR_RETURN(transport_, ps::Transport::Create({}));
    const auto threads = static_cast<std::uint32_t>(args_.threads);
    const ps::ServerOptions options{.shard = {.num_shards = threads, .num_workers = 1, .seed = kSeed},
                                    .threads = threads,
                                    .endpoint_pattern = "inproc:bench-checkpoint-" + name + "-{}",
                                    .store_dir = dir_.path() + "/store-" + name,
                                    .read_threads = ps::ReadThreads(args_.threads)};
    GM_ASSIGN_OR_RETURN(server_, ps::Server::Start(options, {spec}, transport_.get(), log_.get()));
    GM_ASSIGN_OR_RETURN(auto channel, transport_->Connect(server_->endpoints(), {}));
    const ps::ClientOptions client{.num_shards = threads, .stamp = {}, .deadline_ms = kCallDeadlineMs,
                                   .endpoints = server_->endpoints()};
    GM_ASSIGN_OR_RETURN(client_, ps::Client::Create(client, {spec}, kSeed, std::move(channel), &clock_));
    return Ok();
  }

  Status Push(std::span<const std::uint64_t> keys) {
    grads_.resize(std::max(grads_.size(), keys.size() * static_cast<std::size_t>(args_.dim)), 0.01F);
    const ps::PushPart part{.table = 0, .keys = keys,
                            .grads = std::span(grads_).first(keys.size() * static_cast<std::size_t>(args_.dim))};
    return client_->Push(step_++, {&part, 1});
  }

  // A new value for every row.
  Status TouchAll() {
    const auto rows = static_cast<std::uint64_t>(args_.rows);
    std::vector<std::uint64_t> keys(kFillBatch);
    for (std::uint64_t row = 0; row < rows; row += keys.size()) {
      keys.resize(std::min<std::uint64_t>(kFillBatch, rows - row));
      for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = KeyOfRow(row + i);
      GM_RETURN_IF_ERROR(Push(keys));
    }
    return client_->Flush();
  }

  Status TouchSome() {
    const auto changed = static_cast<std::uint64_t>(args_.changed * static_cast<double>(args_.rows));
    for (std::uint64_t done = 0; done < changed; done += kFillBatch) {
      GM_RETURN_IF_ERROR(Push(Draw(std::min<std::uint64_t>(kFillBatch, changed - done))));
    }
    return client_->Flush();
  }

  static std::uint64_t KeyOfRow(std::uint64_t row) { return Mix64(row * 0x9e3779b97f4a7c15ULL + kSeed); }

  // Keys of rows drawn evenly, all different.
  const std::vector<std::uint64_t>& Draw(std::uint64_t count) {
    drawn_.clear();
    for (std::uint64_t i = 0; i < count; ++i) drawn_.push_back(KeyOfRow(random_.Below(static_cast<std::uint64_t>(args_.rows))));
    std::sort(drawn_.begin(), drawn_.end());
    drawn_.erase(std::unique(drawn_.begin(), drawn_.end()), drawn_.end());
    return drawn_;
  }

  train::Checkpoint CheckpointNow() const {
    train::Checkpoint checkpoint;
    checkpoint.cursor.step = step_;
    return checkpoint;
  }

  Result<Cost> Save(train::CheckpointSaver* saver) {
    GM_RETURN_IF_ERROR(saver->Begin(CheckpointNow(), false).status());
    GM_RETURN_IF_ERROR(saver->Finish());
    return Count();
  }

  // What is new in the checkpoint that was saved last.
  Result<Cost> Count() {
    Cost cost{.seconds = saved_.seconds, .bytes = 0};
    std::set<ino_t> files;
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListTree(saved_.dir));
    for (const std::string& name : names) {
      struct stat status {};
      if (::stat((saved_.dir + "/" + name).c_str(), &status) != 0) return Internal("cannot look at " + name);
      files.insert(status.st_ino);
      if (!known_.contains(status.st_ino)) cost.bytes += static_cast<std::uint64_t>(status.st_size);
    }
    known_ = std::move(files);
    return cost;
  }

  // A pull of drawn rows, and a push of their gradients.
  Status Step(double* longest_ms) {
    const std::int64_t begun_ns = clock_.NowNs();
    const std::vector<std::uint64_t>& keys = Draw(static_cast<std::uint64_t>(args_.batch));
    rows_.resize(std::max(rows_.size(), keys.size() * static_cast<std::size_t>(args_.dim)));
    ps::PullPart part{.table = 0, .keys = keys,
                      .rows = std::span(rows_).first(keys.size() * static_cast<std::size_t>(args_.dim))};
    GM_RETURN_IF_ERROR(client_->Pull(step_, ps::ReadMode::kTrain, {&part, 1}));
    GM_RETURN_IF_ERROR(Push(keys));
    *longest_ms = std::max(*longest_ms, SecondsSince(begun_ns) * 1e3);
    return Ok();
  }

  // Steps a second.
  Result<double> StepsFor(double seconds, double* longest_ms) {
    const std::int64_t begun_ns = clock_.NowNs();
    int steps = 0;
    for (; SecondsSince(begun_ns) < seconds; ++steps) GM_RETURN_IF_ERROR(Step(longest_ms));
    return steps / SecondsSince(begun_ns);
  }

  Status MeasureBeside(train::CheckpointSaver* saver) {
    GM_RETURN_IF_ERROR(TouchAll());
    GM_ASSIGN_OR_RETURN(const double before, StepsFor(kAloneSeconds, &figures_.alone_longest_ms));
    saved_ = {};
    const std::int64_t begun_ns = clock_.NowNs();
    int steps = 0;
    double cut_ms = 0.0;
    GM_RETURN_IF_ERROR(saver->Begin(CheckpointNow(), false).status());
    cut_ms = SecondsSince(begun_ns) * 1e3;
    for (; saved_.dir.empty(); ++steps) {
      GM_RETURN_IF_ERROR(Step(&figures_.beside_longest_ms));
      const std::int64_t look_ns = clock_.NowNs();
      GM_RETURN_IF_ERROR(saver->Look());
      figures_.beside_longest_ms = std::max(figures_.beside_longest_ms, SecondsSince(look_ns) * 1e3);
    }
    figures_.beside_steps_per_s = steps / SecondsSince(begun_ns);
    figures_.beside_longest_ms = std::max(figures_.beside_longest_ms, cut_ms);
    GM_ASSIGN_OR_RETURN(const double after, StepsFor(kAloneSeconds, &figures_.alone_longest_ms));
    figures_.alone_steps_per_s = (before + after) / 2;
    return Ok();
  }

  Status MeasureRestore() {
    client_.reset();
    server_.reset();
    GM_RETURN_IF_ERROR(StartServer("b"));
    const std::int64_t begun_ns = clock_.NowNs();
    step_ = saved_.step;
    GM_RETURN_IF_ERROR(client_->Restore(step_, train::PsDir(saved_.dir)));
    double longest_ms = 0.0;
    GM_RETURN_IF_ERROR(Step(&longest_ms));
    figures_.restore_s = SecondsSince(begun_ns);
    for (double per_s = 0.0; per_s < kFullSpeed * figures_.alone_steps_per_s;) {
      figures_.restored_speed_s = SecondsSince(begun_ns);
      if (figures_.restored_speed_s > kMostSeconds) {
        return Status(Code::kDeadline, "steps were not as fast as before " + std::to_string(static_cast<int>(kMostSeconds)) +
                        " s after the restore; run it on a machine that does nothing else");
      }
      GM_ASSIGN_OR_RETURN(per_s, StepsFor(1.0, &longest_ms));
    }
    return Ok();
  }

  const Args& args_;
  BenchDir dir_;  // removed last
  SystemClock clock_;
  std::unique_ptr<Logger> log_;
  std::unique_ptr<collective::Collective> workers_;
  std::unique_ptr<ps::Transport> transport_;
  std::unique_ptr<ps::Server> server_;
  std::unique_ptr<ps::Client> client_;
  RandomStream random_;
  train::SavedCheckpoint saved_;
  std::set<ino_t> known_;  // files of the checkpoint before
  std::uint64_t step_ = 0;
  std::vector<std::uint64_t> drawn_;
  std::vector<float> grads_;
  std::vector<float> rows_;
  Figures figures_;
};

Cost MeanOf(const std::vector<Cost>& costs) {
  Cost sum;
  for (const Cost& cost : costs) {
    sum.seconds += cost.seconds;
    sum.bytes += cost.bytes;
  }
  const auto count = std::max<std::size_t>(costs.size(), 1);
  return {.seconds = sum.seconds / static_cast<double>(count), .bytes = sum.bytes / count};
}

Status RunBenchCheckpoint(const Args& args) {
  Bench bench(args);
  GM_ASSIGN_OR_RETURN(const Figures figures, bench.Run());
  const Cost mean = MeanOf(figures.changed);
  const double full_mb = static_cast<double>(figures.full.bytes) * 1e-6;
  const double bytes_share = static_cast<double>(mean.bytes) / static_cast<double>(figures.full.bytes);
  const double time_share = mean.seconds / figures.full.seconds;
  const double kept = figures.beside_steps_per_s / figures.alone_steps_per_s;
  std::fprintf(ReportStream(args.json),
               "full: %.0f MB in %.2f s, %.0f MB/s\n"
               "%.2g of the rows changed, mean of %d: %.1f MB in %.3f s: %.3f of the bytes, %.3f of the time\n"
               "steps (a pull and a push of %lld rows, no model): %.0f a second, %.0f beside a full checkpoint: %.2f; longest %.0f ms, "
               "beside %.0f ms\n"
               "restore to the first step: %.2f s, to full speed: %.1f s\n",
               full_mb, figures.full.seconds, full_mb / figures.full.seconds, args.changed, args.checkpoints,
               static_cast<double>(mean.bytes) * 1e-6, mean.seconds, bytes_share, time_share,
               static_cast<long long>(args.batch), figures.alone_steps_per_s, figures.beside_steps_per_s, kept,
               figures.alone_longest_ms, figures.beside_longest_ms, figures.restore_s, figures.restored_speed_s);
  if (!args.json) return Ok();
  PrintJsonLine({{"full_bytes", figures.full.bytes},
                 {"full_s", figures.full.seconds},
                 {"full_bytes_per_s", static_cast<double>(figures.full.bytes) / figures.full.seconds},
                 {"changed_bytes_share", bytes_share},
                 {"changed_time_share", time_share},
                 {"steps_share_beside", kept},
                 {"longest_step_ms", figures.alone_longest_ms},
                 {"longest_step_beside_ms", figures.beside_longest_ms},
                 {"restore_s", figures.restore_s},
                 {"restored_speed_s", figures.restored_speed_s}});
  return Ok();
}

}  // namespace

RunCommand AddBenchCheckpoint(CLI::App* bench, CLI::App** added) {
  auto args = std::make_shared<Args>();
  CLI::App* checkpoint = bench->add_subcommand("checkpoint", "checkpoints of a large table: bytes, time, and what steps beside them keep");
  *added = checkpoint;
  checkpoint->add_option("--rows", args->rows, "rows of the table")
      ->check(CLI::Range(std::int64_t{1000}, std::int64_t{1} << 31))->capture_default_str();
  checkpoint->add_option("--dim", args->dim, "floats of an embedding")->check(CLI::Range(1, ps::kMaxDim))->capture_default_str();
  checkpoint->add_option("--batch", args->batch, "rows of a step")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))->capture_default_str();
  checkpoint->add_option("--optimizer", args->optimizer, "the sparse optimizer")
      ->check(CLI::IsMember({"sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"}))->capture_default_str();
  checkpoint->add_option("--changed", args->changed, "share of the rows that change between two checkpoints")
      ->check(CLI::Range(0.0, 1.0))->capture_default_str();
  checkpoint->add_option("--checkpoints", args->checkpoints, "after the first, with so many rows changed")
      ->check(CLI::Range(1, 1000))->capture_default_str();
  checkpoint->add_option("--threads", args->threads, "shards, a thread each")->check(CLI::Range(1, 256))->capture_default_str();
  checkpoint->add_option("--dir", args->dir, "where files go meanwhile; the system's for temporary files")->check(CLI::ExistingDirectory);
  checkpoint->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunBenchCheckpoint(*args); };
}

}  // namespace gatemill::launcher
