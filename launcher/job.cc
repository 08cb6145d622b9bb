#include "launcher/job.h"

#include <mpi.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "common/file.h"
#include "launcher/host.h"
#include "launcher/watch.h"
#include "launcher/watch_link.h"
#include "worker/collective/mpi.h"

namespace gatemill::launcher {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAbortLimit(2000);       // from the decision to end until _exit
constexpr milliseconds kFinalizeLimit(10000);   // all ranks are done by then: longer means that MPI hangs
constexpr int kMeetMs = 300'000;                // until all ranks know each other; launch may set another limit
constexpr milliseconds kScratchAfterTerm(700);  // mpirun kills one second after SIGTERM
constexpr int kTickMs = 200;
constexpr milliseconds kNewsPause(10);

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

// Ranks that a launcher announced; 0: this process was started alone. PMIx tells a rank but no size: at least 1.
int AnnouncedSize() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const int size = std::atoi(Environment(name).c_str()); size > 0) return size;
  }
  return Environment("PMIX_RANK").empty() ? 0 : 1;
}

// Runs `action` on a thread of its own once `delay` is over, unless it is destroyed before.
class Timer {
 public:
  Timer(milliseconds delay, std::function<void()> action)
      : thread_([this, delay, action = std::move(action)] {
          std::unique_lock lock(mutex_);
          if (!changed_.wait_for(lock, delay, [this] { return cancelled_; })) action();
        }) {}
  ~Timer() {
    {
      const std::scoped_lock lock(mutex_);
      cancelled_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;
  std::thread thread_;  // last: it uses the others
};

// MPI from its initialization to its end.
class MpiRuntime {
 public:
  MpiRuntime() {
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &thread_level_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  // Without Finalize the process ends in the middle, and mpirun ends the other ranks.
  ~MpiRuntime() = default;
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }

  // All ranks call it when nothing is left to do.
  void Finalize() {
    const Timer limit(kFinalizeLimit, [] {
      std::fprintf(stderr, "gatemill: MPI_Finalize did not return\n");
      ::_exit(1);
    });
    MPI_Finalize();
  }

  // Ends all ranks; from any thread.
  [[noreturn]] void Abort(int exit_code) {
    if (thread_level_ == MPI_THREAD_MULTIPLE) MPI_Abort(MPI_COMM_WORLD, exit_code);
    ::_exit(exit_code);  // mpirun ends the others when a rank leaves without MPI_Finalize
  }

  // The ranks with the same `worker`, as collective::NewMpiCollective takes it. All ranks call it, right behind a
  // barrier: MPI has no form of it that could be polled.
  int Split(bool worker) {
    MPI_Comm part = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, worker ? 1 : 0, rank_, &part);
    return MPI_Comm_c2f(part);
  }

  static int World() { return MPI_Comm_c2f(MPI_COMM_WORLD); }

 private:
  int thread_level_ = MPI_THREAD_SINGLE;
  int rank_ = 0;
  int size_ = 1;
};

struct Roles {
  int rank = 0;
  int size = 1;
  int servers = 0;  // of JobOptions

  [[nodiscard]] bool server() const { return servers == 0 || rank < servers; }
  [[nodiscard]] bool worker() const { return servers == 0 || rank >= servers; }
  [[nodiscard]] int num_servers() const { return servers == 0 ? size : servers; }
  [[nodiscard]] int num_workers() const { return size - servers; }
  [[nodiscard]] int server_index() const { return server() ? rank : -1; }
  [[nodiscard]] int worker_index() const { return worker() ? rank - servers : -1; }
  [[nodiscard]] std::string name() const {
    if (size == 1) return "";
    if (servers == 0) return "rank " + std::to_string(rank);
    return server() ? "server " + std::to_string(rank) : "worker " + std::to_string(worker_index());
  }
};

Status CheckRoles(int servers, int size) {
  const std::string asked = "--servers " + std::to_string(servers);
  if (servers < 0) return InvalidInput(asked + ": must be 0 (every rank is server and worker) or more");
  if (servers == 0 || servers < size) return Ok();
  return InvalidInput(asked + " leaves no worker among " + std::to_string(size) + (size == 1 ? " rank" : " ranks") +
                      "; start at least " + std::to_string(servers + 1) + " ranks (mpirun -np " +
                      std::to_string(servers + 1) + " gatemill ...) or ask for fewer servers");
}

// What every rank tells the others at the start, one line each.
struct Place {
  std::string identity;
  std::string host;
  std::string address;
  std::string pid;

  static Place Mine() {
    return {.identity = HostIdentity(),
            .host = HostName(),
            .address = ChooseAddress(HostInterfaces(), Environment("OMPI_MCA_btl_tcp_if_include")),
            .pid = std::to_string(::getpid())};
  }
  [[nodiscard]] std::string ToText() const { return identity + "\n" + host + "\n" + address + "\n" + pid; }
  static Place FromText(const std::string& text) {
    std::istringstream lines(text);
    Place place;
    for (std::string* field : {&place.identity, &place.host, &place.address, &place.pid}) std::getline(lines, *field);
    return place;
  }
};

class RankJob final : public Job {
 public:
  RankJob() = default;
  ~RankJob() override;

  Status Open(const JobOptions& options);

  [[nodiscard]] int rank() const override { return roles_.rank; }
  [[nodiscard]] int size() const override { return roles_.size; }
  [[nodiscard]] bool is_server() const override { return roles_.server(); }
  [[nodiscard]] bool is_worker() const override { return roles_.worker(); }
  [[nodiscard]] int server_index() const override { return roles_.server_index(); }
  [[nodiscard]] int worker_index() const override { return roles_.worker_index(); }
  [[nodiscard]] int num_servers() const override { return roles_.num_servers(); }
  [[nodiscard]] int num_workers() const override { return roles_.num_workers(); }
  [[nodiscard]] bool several_hosts() const override { return several_hosts_; }
  [[nodiscard]] int ranks_on_host() const override { return ranks_on_host_; }
  [[nodiscard]] const std::string& host_address() const override { return host_address_; }
  [[nodiscard]] std::uint64_t id() const override { return id_; }
  [[nodiscard]] const std::string& name() const override { return name_; }
  Result<std::vector<std::string>> AllGather(const std::string& bytes) override { return world_->AllGather(bytes); }
  Status Barrier() override { return world_->Barrier(); }
  Status Agree(const Status& mine) override;
  Result<std::unique_ptr<collective::Collective>> WorkerCollective() override;
  Status WaitForWorkers(const std::function<Status()>& tick) override;
  Status Leave() override;
  [[nodiscard]] const std::atomic<bool>& stop() const override { return stop_; }
  [[nodiscard]] const std::atomic<bool>& leave_requested() const override { return leave_requested_; }
  [[nodiscard]] const std::atomic<bool>& interrupted() const override { return interrupted_; }
  bool EndsAnyway(int wait_ms) override;
  void RemoveAtAbort(const std::string& dir) override { watch_->ShareScratch(dir); }
  [[noreturn]] void Abort(int exit_code, const std::string& why) override;

 private:
  Status Meet();
  Status OpenMpi();
  Status MeetOthers();
  Status StartWatch();
  Status DrawId();
  void OnSignal(int signal);
  void OnParentDeath();
  void OnEnd(int exit_code, const std::string& why, bool told);
  bool StartEnding(int exit_code);
  void RemoveScratch();
  static void Say(const std::string& what, const std::string& name);

  JobOptions options_;
  std::optional<Invitation> invitation_;  // set: launch has started the job
  int meet_ms_ = kMeetMs;
  std::optional<BlockSignals> blocked_;
  std::unique_ptr<MpiRuntime> mpi_;  // null: started alone
  bool healthy_ = false;             // everything was set up, so the end must be agreed with the others
  Roles roles_;
  std::string name_;
  std::vector<Place> places_;  // by rank
  bool several_hosts_ = false;
  int ranks_on_host_ = 1;
  std::string host_address_ = "127.0.0.1";
  std::uint64_t id_ = 0;
  std::string token_;
  int worker_communicator_ = 0;
  std::unique_ptr<collective::Collective> world_;
  pid_t parent_ = 0;  // that started this rank: mpirun, or the orted of its host
  std::atomic<bool> stop_{false};
  std::atomic<bool> leave_requested_{false};
  std::atomic<bool> interrupted_{false};
  bool left_ = false;
  int forced_signals_ = 0;                // SIGINT and SIGTERM so far; the watch's thread
  std::unique_ptr<Timer> scratch_timer_;  // the watch's thread
  std::mutex ending_mutex_;
  std::unique_ptr<Timer> ending_;  // guarded by ending_mutex_; set: this process will end
  std::unique_ptr<Watch> watch_;   // last: its thread uses the others
};

Status RankJob::Open(const JobOptions& options) {
  options_ = options;
  blocked_.emplace();
  // Linux never ignores a signal that is blocked: until the end of the job the watch receives it, and after that a late
  // request does not kill a process that is about to end well.
  ::signal(SIGUSR1, SIG_IGN);
  const std::string invitation = Environment(kInvitationVariable);
  if (AnnouncedSize() == 0) return Meet();
  if (!invitation.empty()) {
    GM_ASSIGN_OR_RETURN(invitation_, Invitation::FromText(invitation));
    meet_ms_ = invitation_->start_ms;
  }
  // MPI_Init and MPI_Comm_split have no deadline of their own, and before the watch is up nobody sees who is gone.
  const Timer limit(milliseconds(meet_ms_), [this] {
    Say("the ranks have not met within " + std::to_string(meet_ms_) +
            " ms: a host does not answer, or its ranks have not started; see what they and mpirun say",
        "rank " + Environment("OMPI_COMM_WORLD_RANK"));
    ::_exit(1);
  });
  return Meet();
}

Status RankJob::Meet() {
  if (AnnouncedSize() > 0) GM_RETURN_IF_ERROR(OpenMpi());
  roles_.servers = options_.servers;
  name_ = roles_.name();
  if (!mpi_) world_ = collective::NewLocalCollective();
  if (Status status = Agree(CheckRoles(options_.servers, roles_.size)); !status.ok()) {
    if (mpi_ && status.code() == Code::kInvalidInput) mpi_->Finalize();  // every rank has agreed on it and comes here
    return status;
  }
  GM_RETURN_IF_ERROR(MeetOthers());
  GM_RETURN_IF_ERROR(StartWatch());
  if (mpi_) {
    GM_RETURN_IF_ERROR(world_->Barrier());
    worker_communicator_ = mpi_->Split(roles_.worker());
  }
  healthy_ = true;
  return Ok();
}

// A rank must not outlive the mpirun or orted that started it. SIGTERM and not SIGKILL: the watch takes it, removes the
// scratch of this host's ranks and ends the process. (OpenMPI by itself ends a rank that has lost its mpirun a second or
// more later, and without a call that could clean up.)
Status RankJob::OpenMpi() {
  parent_ = ::getppid();
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::signal(SIGPIPE, SIG_IGN);  // what is said after that must not end it before it has cleaned up
  mpi_ = std::make_unique<MpiRuntime>();
  if (mpi_->size() < AnnouncedSize()) {
    mpi_->Finalize();
    return InvalidInput("started by the mpirun of another MPI (it announced " + std::to_string(AnnouncedSize()) +
                        " ranks, this program's MPI sees " + std::to_string(mpi_->size()) +
                        "); start it with the mpirun of the MPI that it was built with, see `gatemill doctor`");
  }
  roles_.rank = mpi_->rank();
  roles_.size = mpi_->size();
  GM_ASSIGN_OR_RETURN(world_, collective::NewMpiCollective(MpiRuntime::World(), {.deadline_ms = options_.deadline_ms}));
  return Ok();
}

Status RankJob::MeetOthers() {
  const Place mine = Place::Mine();
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, world_->AllGather(mine.ToText()));
  ranks_on_host_ = 0;
  for (const std::string& text : all) {
    places_.push_back(Place::FromText(text));
    if (places_.back().identity == mine.identity) ++ranks_on_host_;
  }
  several_hosts_ = ranks_on_host_ < size();
  if (several_hosts_) host_address_ = mine.address;
  return DrawId();
}

Status RankJob::DrawId() {
  constexpr std::size_t kTokenBytes = 16;
  std::string drawn;
  if (rank() == 0) {
    GM_ASSIGN_OR_RETURN(drawn, RandomBytes(sizeof(id_) + kTokenBytes));
  }
  GM_ASSIGN_OR_RETURN(drawn, world_->Broadcast(drawn, 0));
  std::memcpy(&id_, drawn.data(), sizeof(id_));
  token_ = drawn.substr(sizeof(id_));
  return Ok();
}

Status RankJob::StartWatch() {
  // Half, so that rank 0 can name who has not come.
  const int deadline_ms = std::min(options_.deadline_ms, meet_ms_ / 2);
  WatchOptions watch{.rank = rank(),
                     .size = size(),
                     .leavers = num_workers(),
                     .token = token_,
                     .listen_address = host_address_,
                     .connect_deadline_ms = deadline_ms};
  for (int other = 0; other < size(); ++other) {
    const Roles theirs{.rank = other, .size = size(), .servers = roles_.servers};
    const Place& place = places_[static_cast<std::size_t>(other)];
    const std::string number = "rank " + std::to_string(other);
    watch.names.push_back(number + " (" + (theirs.name() == number ? "" : theirs.name() + ", ") + "process " +
                          place.pid + " on " + place.host + ")");
  }
  if (invitation_ && rank() == 0) {
    watch.launch = invitation_;
    watch.names.push_back(invitation_->name);
  }
  const WatchEvents events{
      .on_signal = [this](int signal) { OnSignal(signal); },
      .on_end = [this](int exit_code, const std::string& why, bool told) { OnEnd(exit_code, why, told); }};
  if (rank() == 0) {
    GM_ASSIGN_OR_RETURN(watch_, Watch::Create(watch, events));
  }
  GM_ASSIGN_OR_RETURN(watch.hub, world_->Broadcast(watch_ ? watch_->endpoint() : std::string(), 0));
  if (rank() != 0) {
    GM_ASSIGN_OR_RETURN(watch_, Watch::Create(watch, events));
  }
  watch_->Start();
  return watch_->AwaitEverybody(deadline_ms);
}

Status RankJob::Agree(const Status& mine) {
  if (!mpi_) return mine;
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      world_->AllGather(std::string(1, static_cast<char>(mine.code())) + mine.message()));
  const auto bad = [](const std::string& each) { return static_cast<Code>(each[0]) != Code::kOk; };
  const auto first = std::find_if(all.begin(), all.end(), bad);
  if (first == all.end()) return Ok();
  if (first - all.begin() == rank()) {
    const bool everywhere = std::all_of(all.begin(), all.end(), [&](const std::string& each) { return each == *first; });
    Say(mine.message(), everywhere ? "" : name_);
  }
  GM_RETURN_IF_ERROR(world_->Barrier());
  return {static_cast<Code>((*first)[0]), ""};
}

RankJob::~RankJob() {
  if (healthy_ && mpi_) {
    watch_->Bye();
    // Bounded by the watch: a rank that is gone or silent ends this process.
    while (!watch_->AwaitAllBye(kTickMs)) {
    }
    world_.reset();
    mpi_->Finalize();
  }
  watch_.reset();
  scratch_timer_.reset();
}

Result<std::unique_ptr<collective::Collective>> RankJob::WorkerCollective() {
  if (!is_worker()) return std::unique_ptr<collective::Collective>();
  if (!mpi_) return collective::NewLocalCollective();
  return collective::NewMpiCollective(worker_communicator_, {.deadline_ms = options_.deadline_ms});
}

Status RankJob::WaitForWorkers(const std::function<Status()>& tick) {
  // Bounded by the watch, as above.
  while (!watch_->AwaitAllLeft(kTickMs)) GM_RETURN_IF_ERROR(tick());
  return Ok();
}

Status RankJob::Leave() {
  if (!is_worker()) return Internal(name_ + " is no worker and cannot leave the servers");
  if (!std::exchange(left_, true)) watch_->Leave();
  return Ok();
}

bool RankJob::EndsAnyway(int wait_ms) {
  const auto deadline = std::chrono::steady_clock::now() + milliseconds(wait_ms);
  const auto ends = [this] {
    const std::scoped_lock lock(ending_mutex_);
    return ending_ != nullptr || stop_;
  };
  while (!ends()) {
    if (!mpi_ || std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kNewsPause);
  }
  return true;
}

void RankJob::Say(const std::string& what, const std::string& name) {
  const std::string line = "gatemill: " + (name.empty() ? "" : "[" + name + "] ") + what + "\n";
  std::fputs(line.c_str(), stderr);
}

void RankJob::RemoveScratch() {
  for (const Scratch& scratch : watch_->scratch()) {
    const Place& place = places_[static_cast<std::size_t>(scratch.rank)];
    if (place.identity == places_[static_cast<std::size_t>(rank())].identity) (void)RemoveTree(scratch.dir);
  }
}

void RankJob::OnSignal(int signal) {
  (signal == SIGUSR1 ? leave_requested_ : stop_) = true;
  interrupted_ = true;  // behind the reason for it
  if (signal == SIGUSR1) return;
  if (mpi_ && ::getppid() != parent_) OnParentDeath();
  if (++forced_signals_ > 1) {
    RemoveScratch();
    ::_exit(130);
  }
  if (mpi_ && signal == SIGTERM) {
    scratch_timer_ = std::make_unique<Timer>(kScratchAfterTerm, [this] { RemoveScratch(); });
  }
}

// MPI is of no use any more: nobody is left to tell the other hosts, whose ranks miss this one's heartbeat.
void RankJob::OnParentDeath() {
  if (!StartEnding(1)) return;
  if (rank() == 0) Say("mpirun is gone, so the job ends", name_);
  RemoveScratch();
  ::_exit(1);
}

// From here on the process ends within kAbortLimit. False when another thread has decided so before.
bool RankJob::StartEnding(int exit_code) {
  const std::scoped_lock lock(ending_mutex_);
  if (ending_) return false;
  ending_ = std::make_unique<Timer>(kAbortLimit, [this, exit_code] {
    RemoveScratch();
    ::_exit(exit_code);
  });
  return true;
}

// On the watch's thread. A rank that was told waits for the end that the other one brings about, so that one cause
// is not told many times.
void RankJob::OnEnd(int exit_code, const std::string& why, bool told) {
  if (!StartEnding(exit_code)) return;
  if (!told) Say(why, name_);
  RemoveScratch();
  if (!told && mpi_) mpi_->Abort(exit_code);
}

void RankJob::Abort(int exit_code, const std::string& why) {
  if (StartEnding(exit_code)) {
    Say(why, name_);
    watch_->TellEnd(exit_code, name_ + ": " + why);
    RemoveScratch();
    if (!mpi_) ::_exit(exit_code);
    mpi_->Abort(exit_code);
  }
  while (true) std::this_thread::sleep_for(kAbortLimit);  // the timer ends the process
}

}  // namespace

std::string MpiLibraryVersion() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find(','));
}

Result<std::unique_ptr<Job>> Job::Start(const JobOptions& options) {
  auto job = std::make_unique<RankJob>();
  GM_RETURN_IF_ERROR(job->Open(options));
  return std::unique_ptr<Job>(std::move(job));
}

}  // namespace gatemill::launcher
