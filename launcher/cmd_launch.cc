// gatemill launch -np N ... -- train CONFIG: an mpirun job that is started again when it dies, and saved when it must
// go. What it decides is in launcher/supervisor.h; here are its command line and its hands.

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "launcher/child_job.h"
#include "launcher/command.h"
#include "launcher/launch_line.h"
#include "launcher/mpirun_files.h"
#include "launcher/run_dir.h"
#include "launcher/supervisor.h"
#include "launcher/train_args.h"

namespace gatemill::launcher {
namespace {

constexpr const char* kUsage =
    "gatemill launch -np N [launch's and mpirun's options] -- train CONFIG [train's options]";
constexpr int kMaxRanks = 1 << 20;
constexpr int kMaxRestarts = 1'000'000;
constexpr double kMaxSeconds = 7 * 24 * 3600;
constexpr int kPatienceMs = 3000;  // for ranks that have lost their mpirun: they clean up, two seconds at most
constexpr int kLongestWaitMs = 60'000;
constexpr int kTurnMs = 250;  // between two looks at the line to rank 0

struct LaunchArgs {
  int np = 0;
  int restarts = 10;
  double grace_s = 30.0;
  double start_s = 300.0;
  std::vector<std::string> mpirun;  // options for it, as they were given
  TrainArgs train;
};

Result<int> ParseCount(const std::string& option, const std::string& text, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return value;
  return InvalidInput(option + " " + text + ": give a whole number from " + std::to_string(least) + " to " +
                      std::to_string(most));
}

Result<double> ParseSeconds(const std::string& option, const std::string& text, double least) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool number = error == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  if (number && value >= least && value <= kMaxSeconds) return value;
  return InvalidInput(option + " " + text + ": give a number of seconds, " + (least > 0.0 ? "1 or more, " : "") +
                      "up to a week");
}

// The words of launch's own in front of "--"; everything else there is mpirun's.
class LaunchParser {
 public:
  explicit LaunchParser(std::vector<std::string> words) : words_(std::move(words)) {}

  Result<LaunchArgs> Parse() {
    const auto mark = std::find(words_.begin(), words_.end(), "--");
    if (mark == words_.end()) {
      return InvalidInput("launch: -- is missing between mpirun's options and train; write " + std::string(kUsage));
    }
    const std::vector<std::string> command(mark + 1, words_.end());
    words_.erase(mark, words_.end());
    while (at_ < words_.size()) GM_RETURN_IF_ERROR(TakeWord());
    if (args_.np == 0) return InvalidInput("launch: -np is missing: how many ranks? Write " + std::string(kUsage));
    GM_RETURN_IF_ERROR(ParseTrain(command));
    return std::move(args_);
  }

 private:
  Status TakeWord() {
    const std::string word = words_[at_++];
    const std::size_t equals = word.starts_with("--") ? word.find('=') : std::string::npos;
    const std::string option = word.substr(0, equals);
    if (word == "--json") {
      json_ = true;
      return Ok();
    }
    const bool np = option == "-np" || option == "-n" || option == "--np";
    const bool own = option == "--servers" || option == "--restarts" || option == "--grace" || option == "--start-deadline";
    if (!np && !own) {
      args_.mpirun.push_back(word);
      return Ok();
    }
    std::string value;
    if (equals != std::string::npos) {
      value = word.substr(equals + 1);
    } else if (at_ < words_.size()) {
      value = words_[at_++];
    } else {
      return InvalidInput("launch: " + option + " needs a value");
    }
    if (np) {
      if (args_.np != 0) {
        return InvalidInput("launch: " + option + " " + value + ": the number of ranks is given twice");
      }
      GM_ASSIGN_OR_RETURN(args_.np, ParseCount(option, value, 1, kMaxRanks));
    } else if (option == "--servers") {
      GM_ASSIGN_OR_RETURN(servers_, ParseCount(option, value, 0, kMaxRanks));
    } else if (option == "--restarts") {
      GM_ASSIGN_OR_RETURN(args_.restarts, ParseCount(option, value, 0, kMaxRestarts));
    } else if (option == "--grace") {
      GM_ASSIGN_OR_RETURN(args_.grace_s, ParseSeconds(option, value, 0.0));
    } else {
      GM_ASSIGN_OR_RETURN(args_.start_s, ParseSeconds(option, value, 1.0));
    }
    return Ok();
  }

  Status ParseTrain(const std::vector<std::string>& command) {
    if (command.empty() || command[0] != "train") {
      return InvalidInput("launch: " + (command.empty() ? "nothing follows --" : command[0] + " follows --") +
                          ", but train alone runs on many ranks; write " + kUsage);
    }
    CLI::App app("", "gatemill train");
    app.set_help_flag();
    AddTrainOptions(&app, &args_.train);
    std::vector<std::string> backwards(command.rbegin(), command.rend() - 1);  // as CLI11 takes them
    try {
      app.parse(backwards);
    } catch (const CLI::ParseError& error) {
      return InvalidInput("launch: train: " + std::string(error.what()) + "; see gatemill train --help");
    }
    args_.train.json = args_.train.json || json_;
    if (!servers_) return Ok();
    if (app.count("--servers") > 0) return InvalidInput("launch: --servers is given twice, to launch and to train");
    args_.train.servers = *servers_;
    return Ok();
  }

  std::vector<std::string> words_;
  std::size_t at_ = 0;
  std::optional<int> servers_;
  bool json_ = false;
  LaunchArgs args_;
};

// Is one of mpirun's options there, with one dash or two?
bool Has(const std::vector<std::string>& words, const std::vector<std::string>& names) {
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return word.starts_with('-') &&
           std::find(names.begin(), names.end(), word.substr(word.starts_with("--") ? 2 : 1)) != names.end();
  });
}

// What nearly everybody needs of mpirun, unless the user has said otherwise. (OpenMPI refuses root and more ranks than
// cores, ties each rank, with all its threads, to one core, and takes eight minutes to see that the other end of an idle
// connection between mpirun and an orted is gone: here 20 s.)
std::vector<std::string> MpirunDefaults(const std::vector<std::string>& given) {
  std::vector<std::string> words;
  if (::geteuid() == 0 && !Has(given, {"allow-run-as-root"})) words.emplace_back("--allow-run-as-root");
  if (!Has(given, {"bind-to"})) words.insert(words.end(), {"--bind-to", "none"});
  if (!Has(given, {"host", "H", "hostfile", "machinefile", "oversubscribe", "nooversubscribe"})) {
    words.emplace_back("--oversubscribe");
  }
  for (const auto& [name, value] : {std::pair("oob_tcp_keepalive_time", "10"), std::pair("oob_tcp_keepalive_intvl", "2"),
                                    std::pair("oob_tcp_keepalive_probes", "5")}) {
    const bool is_given = std::find(given.begin(), given.end(), name) != given.end();
    if (!is_given && std::getenv(("OMPI_MCA_" + std::string(name)).c_str()) == nullptr) {
      words.insert(words.end(), {"--mca", name, value});
    }
  }
  return words;
}

Result<std::string> OwnPath() {
  std::string path(PATH_MAX, '\0');
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) return Internal("cannot find this program's own path in /proc/self/exe; is /proc there?");
  path.resize(static_cast<std::size_t>(length));
  return path;
}

class LaunchCommand {
 public:
  explicit LaunchCommand(LaunchArgs args) : args_(std::move(args)), log_(NewStderrLogger("launch", LogLevel::kInfo)) {}

  // What is wrong with the command line is found here, before anything starts.
  Status Prepare() {
    GM_ASSIGN_OR_RETURN(run_dir_, ChooseRunDir(args_.train));
    GM_ASSIGN_OR_RETURN(program_, OwnPath());
    GM_ASSIGN_OR_RETURN(line_, LaunchLine::Open({.start_ms = static_cast<int>(args_.start_s * 1000)}));
    mpirun_ = FindOnPath("mpirun");
    if (mpirun_.empty()) {
      return InvalidInput(
          "launch: there is no mpirun on PATH; install the package openmpi-bin, or add the directory of the "
          "mpirun that `gatemill doctor` names to PATH");
    }
    return Ok();
  }

  Status Run() {
    Supervisor supervisor({.restarts = args_.restarts,
                           .grace_ns = static_cast<std::int64_t>(args_.grace_s * kNsPerSecond),
                           .start_ns = static_cast<std::int64_t>(args_.start_s * kNsPerSecond),
                           .resume_hint = "the same command, with --run-dir " + run_dir_ + " --resume auto"});
    GM_RETURN_IF_ERROR(CarryOut(supervisor.Begin(clock_.NowNs(), Newest())));
    while (!ended_) {
      const int signal = signals_.Wait(std::min(MsUntil(supervisor.wake_ns()), job_ ? kTurnMs : kLongestWaitMs));
      if (signal == SIGINT || signal == SIGTERM) GM_RETURN_IF_ERROR(CarryOut(supervisor.OnSignal(clock_.NowNs())));
      if (job_) GM_RETURN_IF_ERROR(CarryOut(LookAtRanks(&supervisor)));
      if (const std::optional<int> code = job_ ? job_->Poll() : std::nullopt) {
        GM_ASSIGN_OR_RETURN(const JobEnd end, TakeJobEnd(*code));
        GM_RETURN_IF_ERROR(CarryOut(supervisor.OnJobEnd(clock_.NowNs(), end)));
      }
      GM_RETURN_IF_ERROR(CarryOut(supervisor.OnTick(clock_.NowNs())));
    }
    return result_;
  }

 private:
  using FileTime = std::filesystem::file_time_type;

  // Turns the line, and tells what is new on it.
  std::vector<Action> LookAtRanks(Supervisor* supervisor) {
    const LineState before = line_->state();
    line_->Turn();
    if (line_->state() == before) return {};
    const std::int64_t now_ns = clock_.NowNs();
    if (line_->state() == LineState::kMet) return supervisor->OnRanksMet(now_ns);
    return supervisor->OnRanksEnd(now_ns, line_->state() == LineState::kDone);
  }

  [[nodiscard]] int MsUntil(std::int64_t wake_ns) const {
    const std::int64_t now_ns = clock_.NowNs();
    if (wake_ns <= now_ns) return 0;
    return static_cast<int>(std::min<std::int64_t>((wake_ns - now_ns) / kNsPerMs + 1, kLongestWaitMs));
  }

  // train itself says what it passes over.
  [[nodiscard]] std::optional<RunCheckpoint> Newest() const {
    return NewestCheckpoint(run_dir_, [](const std::string&) {});
  }

  // train proves that it can write there before it trains, so the time changes with every job that has come so far.
  [[nodiscard]] FileTime TimeOfCheckpoints() const {
    std::error_code error;
    const FileTime time = std::filesystem::last_write_time(run_dir_ + "/checkpoints", error);
    return error ? FileTime() : time;
  }

  Status CarryOut(const std::vector<Action>& actions) {
    for (const Action& action : actions) {
      switch (action.kind) {
        case ActionKind::kSay:
          log_->Warn(action.text);
          break;
        case ActionKind::kStart:
          GM_RETURN_IF_ERROR(StartJob());
          break;
        case ActionKind::kAskToLeave:
          Send(SIGUSR1);
          break;
        case ActionKind::kTerminate:
          Send(SIGTERM);
          break;
        case ActionKind::kKill:
          Send(SIGKILL);
          break;  // the ranks follow, see TakeJobEnd
        case ActionKind::kEnd:
          End(action);
          break;
      }
    }
    return Ok();
  }

  void Send(int signal) {
    if (job_) job_->Send(signal);
    killed_ = killed_ || signal == SIGKILL;
  }

  void End(const Action& action) {
    ended_ = true;
    if (action.exit_code == 0 && !action.text.empty()) log_->Info(action.text);
    if (action.exit_code == 2) result_ = InvalidInput(action.text);
    if (action.exit_code != 0 && action.exit_code != 2) result_ = Internal(action.text);
  }

  Status StartJob() {
    GM_RETURN_IF_ERROR(RemoveFailure(run_dir_));
    GM_ASSIGN_OR_RETURN(const std::string invitation, line_->Invite());
    ::setenv(kInvitationVariable, invitation.c_str(), 1);
    before_ = TimeOfCheckpoints();
    killed_ = false;
    TrainArgs train = args_.train;
    train.run_dir = run_dir_;
    if (std::exchange(started_, true)) {
      if (Newest() || !train.resumes_from_checkpoint()) {
        train.resume = "auto";
      } else {
        // It begins once more from the checkpoint of another run: train takes a directory without config.yaml for a new
        // run.
        GM_RETURN_IF_ERROR(RemoveTree(run_dir_ + "/config.yaml"));
      }
    }
    std::vector<std::string> command{mpirun_};
    const auto add = [&](const std::vector<std::string>& words) {
      command.insert(command.end(), words.begin(), words.end());
    };
    add(MpirunDefaults(args_.mpirun));
    add(args_.mpirun);
    add({"-x", kInvitationVariable, "-np", std::to_string(args_.np), program_, "train"});
    add(ToWords(train));
    GM_ASSIGN_OR_RETURN(job_, ChildJob::Start(command, signals_));
    return Ok();
  }

  Result<JobEnd> TakeJobEnd(int exit_code) {
    GM_RETURN_IF_ERROR(job_->EndRest(killed_ ? 0 : kPatienceMs));
    if (const Status removed = RemoveMpirunFiles(job_->pid(), SessionsDir()); !removed.ok()) log_->Warn(removed.message());
    job_.reset();
    line_->Turn();
    return JobEnd{.exit_code = exit_code,
                  .began = TimeOfCheckpoints() != before_,
                  .why = line_->why(),
                  .done = line_->state() == LineState::kDone,
                  .cut = line_->state() == LineState::kGone,
                  .failure = ReadFailure(run_dir_),
                  .newest = Newest()};
  }

  const LaunchArgs args_;
  const SystemClock clock_;
  const LaunchSignals signals_;
  const std::unique_ptr<Logger> log_;
  std::string run_dir_;
  std::string program_;
  std::string mpirun_;
  std::unique_ptr<LaunchLine> line_;
  std::unique_ptr<ChildJob> job_;  // null between two jobs
  FileTime before_;                // of the checkpoints' directory when the job was started
  bool started_ = false;           // a job, before
  bool killed_ = false;            // this job
  bool ended_ = false;
  Status result_;
};

Status RunLaunch(const std::vector<std::string>& words) {
  GM_ASSIGN_OR_RETURN(LaunchArgs args, LaunchParser(words).Parse());
  LaunchCommand command(std::move(args));
  GM_RETURN_IF_ERROR(command.Prepare());
  return command.Run();
}

}  // namespace

// The options are here for their help: CLI11 would not leave the order of mpirun's alone.
RunCommand AddLaunch(CLI::App* app, std::vector<std::string> words) {
  app->add_option("-n,--np", "how many ranks; also -np")->type_name("N");
  app->add_option("--servers", "the first M ranks are servers only")->type_name("M");
  app->add_option("--restarts",
                  "how often the job is started again when it dies, from its newest checkpoint; default 10")
      ->type_name("R");
  app->add_option("--grace", "after SIGTERM or SIGINT: how long the job may take to save and leave; default 30")
      ->type_name("SECONDS");
  app->add_option("--start-deadline",
                  "how long a started job may take until its ranks have met; then it is ended and started again; default 300")
      ->type_name("SECONDS");
  app->add_flag("--json")->description("as train's: the result as one JSON object, last on standard output");
  app->footer(std::string(kUsage) +
              "\nEvery other word in front of -- goes to mpirun. Added unless given: --bind-to none, "
              "--oversubscribe without hosts,\n--allow-run-as-root for root, and keepalives that find a lost host in 20 s "
              "(--mca oob_tcp_keepalive_time 10 ...).\nGive the ranks variables by -x, not by mca_base_env_list: "
              "mpirun does not mix them, and launch uses -x.");
  return [words = std::move(words)] { return RunLaunch(words); };
}

}  // namespace gatemill::launcher
