#include "launcher/watch.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "launcher/watch_link.h"

namespace gatemill::launcher {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kTellMs = 500;  // longest wait for rank 0 to take note of something

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, signal);
  return signals;
}

// A connection and what is known of the rank behind it.
struct Peer {
  Link link;
  int rank = -1;  // -1: has not said hello; behind the last one: launch
  bool said_bye = false;
  SteadyClock::time_point heard;
};

}  // namespace

class Watch::Impl {
 public:
  Impl(WatchOptions options, WatchEvents events) : options_(std::move(options)), events_(std::move(events)) {}
  ~Impl() {
    stopping_ = true;
    Wake();
    if (thread_.joinable()) thread_.join();
  }

  Status Open();
  void StartThread() {
    thread_ = std::thread([this] { Run(); });
  }

  void ShareScratch(const std::string& dir);

  void Post(Frame frame) {
    {
      const std::scoped_lock lock(mutex_);
      outbox_.push_back(std::move(frame));
    }
    Wake();
  }

  // Waits until the flag is set, at most `wait_ms`.
  bool Await(const bool Impl::*flag, int wait_ms) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, milliseconds(wait_ms), [&] { return this->*flag; });
  }

  std::string Missing() const {
    const std::scoped_lock lock(mutex_);
    std::string missing;
    for (std::size_t rank = 1; rank < here_.size(); ++rank) {
      if (!here_[rank]) missing += (missing.empty() ? "" : ", ") + options_.names[rank];
    }
    return missing;
  }

  std::vector<Scratch> scratch() const {
    const std::scoped_lock lock(mutex_);
    return scratch_;
  }

  [[nodiscard]] bool hub() const { return options_.rank == 0; }

  const WatchOptions options_;
  std::string endpoint_;
  // What the watch has learned; guarded by mutex_.
  bool everybody_ = false;
  bool all_left_ = false;
  bool all_bye_ = false;
  bool end_told_ = false;

 private:
  void Run();
  void Poll(int timeout_ms);
  void Accept();
  void TakeSignals();
  void TakeOutbox();
  void HearAll();
  void LetStrangersGo();
  void BeatAndListen(SteadyClock::time_point now);
  void Handle(const Frame& frame, Peer* from);
  void HandleAtHub(const Frame& frame, Peer* from);
  void HandleAtSpoke(const Frame& frame);
  bool Admit(const Frame& frame, Peer* from);
  void TellEverybody();
  void Lose(const Peer& peer, const std::string& how);
  void End(int exit_code, const std::string& why, bool told);
  void KeepScratch(const Frame& frame);

  void Wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
  }
  void Set(bool Impl::*flag) {
    const std::scoped_lock lock(mutex_);
    this->*flag = true;
    changed_.notify_all();
  }
  void SendToAll(const Frame& frame, const Peer* except = nullptr) {
    for (const auto& peer : peers_) {
      if (peer.get() != except && peer->rank >= 0) peer->link.Send(frame);
    }
  }

  const WatchEvents events_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  Descriptor wake_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Frame> outbox_;     // guarded by mutex_
  std::vector<Scratch> scratch_;  // guarded by mutex_
  int shared_ = 0;                // guarded by mutex_; how many of them are this rank's
  int receipts_ = 0;              // guarded by mutex_; how many of those rank 0 knows
  std::vector<bool> here_;        // guarded by mutex_; rank 0: who is connected

  // The thread's own.
  Descriptor signals_;
  Descriptor listener_;
  std::vector<std::unique_ptr<Peer>> peers_;
  int left_ = 0;  // rank 0: how many have left,
  int byes_ = 0;  // and how many are done
  bool ended_ = false;
  bool done_ = false;  // all have said goodbye: a connection that closes means nothing any more
  SteadyClock::time_point next_beat_;
  SteadyClock::time_point last_turn_;
};

Status Watch::Impl::Open() {
  wake_ = Descriptor(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (options_.signals) {
    const sigset_t signals = WatchedSignals();
    signals_ = Descriptor(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  if (!wake_.valid() || (options_.signals && !signals_.valid())) {
    return Internal("cannot open the watch's descriptors; is the limit on open files (ulimit -n) reached?");
  }
  here_.assign(static_cast<std::size_t>(options_.size), false);
  if (hub() && options_.size > 1) {
    int port = 0;
    GM_ASSIGN_OR_RETURN(listener_, ListenTcp(options_.listen_address, &port));
    endpoint_ = options_.listen_address + " " + std::to_string(port);
  } else if (!hub()) {
    const std::size_t space = options_.hub.find(' ');
    const std::string address = options_.hub.substr(0, space);
    const int port = std::stoi(options_.hub.substr(space + 1));
    auto socket = ConnectTcp(address, port, options_.connect_deadline_ms);
    if (!socket.ok()) {
      return socket.status().Annotate(
          "the heartbeat connection to rank 0 (tcp between the hosts must be open; "
          "mpirun --mca btl_tcp_if_include NAME chooses another interface)");
    }
    peers_.push_back(std::make_unique<Peer>(
        Peer{.link = Link(std::move(*socket)), .rank = 0, .said_bye = false, .heard = SteadyClock::now()}));
    peers_.back()->link.Send({.type = FrameType::kHello, .rank = options_.rank, .value = 0, .text = options_.token});
  }
  if (options_.launch) {
    GM_ASSIGN_OR_RETURN(Link link, Reach(*options_.launch));
    peers_.push_back(std::make_unique<Peer>(
        Peer{.link = std::move(link), .rank = options_.size, .said_bye = false, .heard = SteadyClock::now()}));
  }
  if (options_.size == 1) TellEverybody();
  return Ok();
}

// All ranks are connected, and learn it; launch does, too.
void Watch::Impl::TellEverybody() {
  SendToAll({.type = FrameType::kEverybody, .rank = 0, .value = 0, .text = options_.names[0]});
  Set(&Impl::everybody_);
}

void Watch::Impl::Run() {
  next_beat_ = last_turn_ = SteadyClock::now();
  while (!stopping_) {
    Poll(static_cast<int>(std::chrono::ceil<milliseconds>(next_beat_ - SteadyClock::now()).count()));
    TakeSignals();
    Accept();
    HearAll();
    LetStrangersGo();
    TakeOutbox();
    BeatAndListen(SteadyClock::now());
  }
  for (const auto& peer : peers_) peer->link.Flush();
}

void Watch::Impl::Poll(int timeout_ms) {
  std::vector<pollfd> waiting = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  if (signals_.valid()) waiting.push_back({.fd = signals_.get(), .events = POLLIN, .revents = 0});
  if (listener_.valid()) waiting.push_back({.fd = listener_.get(), .events = POLLIN, .revents = 0});
  for (const auto& peer : peers_) {
    const short events = peer->link.has_output() ? POLLIN | POLLOUT : POLLIN;
    waiting.push_back({.fd = peer->link.fd(), .events = events, .revents = 0});
  }
  ::poll(waiting.data(), waiting.size(), std::clamp(timeout_ms, 0, options_.beat_ms));
}

void Watch::Impl::TakeSignals() {
  signalfd_siginfo info{};
  while (signals_.valid() && ::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (events_.on_signal) events_.on_signal(static_cast<int>(info.ssi_signo));
  }
}

void Watch::Impl::Accept() {
  if (!listener_.valid()) return;
  for (std::size_t accepted = 0; accepted < kMaxStrangers; ++accepted) {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) return;
    peers_.push_back(std::make_unique<Peer>(
        Peer{.link = Link(std::move(socket)), .rank = -1, .said_bye = false, .heard = SteadyClock::now()}));
  }
}

void Watch::Impl::TakeOutbox() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof(count));
  std::vector<Frame> outbox;
  {
    const std::scoped_lock lock(mutex_);
    outbox.swap(outbox_);
  }
  for (const Frame& frame : outbox) {
    if (frame.type == FrameType::kEnd) {
      ended_ = true;
      SendToAll(frame);
      Set(&Impl::end_told_);
    } else if (hub()) {
      HandleAtHub(frame, nullptr);
    } else {
      SendToAll(frame);
    }
  }
}

void Watch::Impl::HearAll() {
  // By index: handling a frame may not add peers, but it calls events.
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    Peer& peer = *peers_[i];
    peer.link.Flush();
    for (const Frame& frame : peer.link.Read()) {
      peer.heard = SteadyClock::now();
      Handle(frame, &peer);
    }
    if (!peer.link.alive()) Lose(peer, "its process ended without a goodbye");
  }
  std::erase_if(peers_, [](const auto& peer) { return !peer->link.alive(); });
}

// Ranks may be many, and have not all said hello: those above them go, the oldest first.
void Watch::Impl::LetStrangersGo() {
  const auto is_stranger = [](const auto& peer) { return peer->rank < 0; };
  const auto most = static_cast<std::ptrdiff_t>(kMaxStrangers) + options_.size;
  std::ptrdiff_t too_many = std::ranges::count_if(peers_, is_stranger) - most;
  std::erase_if(peers_, [&](const auto& peer) { return is_stranger(peer) && too_many-- > 0; });
}

void Watch::Impl::BeatAndListen(SteadyClock::time_point now) {
  // A process that was itself stopped for a while knows nothing about the silence of others.
  const bool slept = now - std::exchange(last_turn_, now) > milliseconds(options_.silence_ms / 2);
  if (now < next_beat_ && !slept) return;
  next_beat_ = now + milliseconds(options_.beat_ms);
  SendToAll({.type = FrameType::kBeat, .rank = options_.rank, .value = 0, .text = ""});
  for (const auto& peer : peers_) {
    if (slept) peer->heard = now;
    if (now - peer->heard < milliseconds(options_.silence_ms)) continue;
    peer->heard = now;
    Lose(*peer, "it has been silent for " + std::to_string(options_.silence_ms) + " ms");
    if (peer->rank < 0) peer->link = Link(Descriptor());
  }
}

void Watch::Impl::Handle(const Frame& frame, Peer* from) {
  if (from->rank < 0 && !Admit(frame, from)) return;
  if (hub()) {
    HandleAtHub(frame, from);
  } else {
    HandleAtSpoke(frame);
  }
}

// A stranger becomes a rank by its hello; anything else closes the connection.
bool Watch::Impl::Admit(const Frame& frame, Peer* from) {
  const bool good = frame.type == FrameType::kHello && frame.text == options_.token && frame.rank > 0 &&
                    frame.rank < options_.size && !here_[static_cast<std::size_t>(frame.rank)];
  if (!good) {
    from->link = Link(Descriptor());
    return false;
  }
  from->rank = frame.rank;
  const std::scoped_lock lock(mutex_);
  here_[static_cast<std::size_t>(frame.rank)] = true;
  return true;
}

// `from` is null for what rank 0 itself says.
void Watch::Impl::HandleAtHub(const Frame& frame, Peer* from) {
  const auto tell = [&](FrameType type) { SendToAll({.type = type, .rank = 0, .value = 0, .text = ""}); };
  switch (frame.type) {
    case FrameType::kHello:
      if (std::ranges::count(here_, true) + 1 < options_.size) break;
      listener_.Close();
      TellEverybody();
      break;
    case FrameType::kScratch:
      KeepScratch(frame);
      SendToAll(frame);
      break;
    case FrameType::kLeave:
      if (++left_ != options_.leavers) break;
      tell(FrameType::kAllLeft);
      Set(&Impl::all_left_);
      break;
    case FrameType::kBye:
      if (from != nullptr) from->said_bye = true;
      if (++byes_ != options_.size) break;
      done_ = true;
      tell(FrameType::kAllBye);
      Set(&Impl::all_bye_);
      break;
    case FrameType::kEnd:
      SendToAll(frame, from);
      End(frame.value, frame.text, true);
      break;
    default:
      break;
  }
}

void Watch::Impl::HandleAtSpoke(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kEverybody:
      Set(&Impl::everybody_);
      break;
    case FrameType::kScratch:
      KeepScratch(frame);
      break;
    case FrameType::kAllLeft:
      Set(&Impl::all_left_);
      break;
    case FrameType::kAllBye:
      done_ = true;
      Set(&Impl::all_bye_);
      break;
    case FrameType::kEnd:
      End(frame.value, frame.text, true);
      break;
    default:
      break;
  }
}

// A rank knows its own directories already: for it the frame is rank 0's receipt.
void Watch::Impl::KeepScratch(const Frame& frame) {
  const std::scoped_lock lock(mutex_);
  if (frame.rank == options_.rank) {
    ++receipts_;
  } else {
    scratch_.push_back({.rank = frame.rank, .dir = frame.text});
  }
  changed_.notify_all();
}

// Returns when rank 0 knows it, so that it will be removed even if this process is killed right after.
void Watch::Impl::ShareScratch(const std::string& dir) {
  int receipts = 0;
  {
    const std::scoped_lock lock(mutex_);
    scratch_.push_back({.rank = options_.rank, .dir = dir});
    receipts = ++shared_;
  }
  Post({.type = FrameType::kScratch, .rank = options_.rank, .value = 0, .text = dir});
  std::unique_lock lock(mutex_);
  (void)changed_.wait_for(lock, milliseconds(kTellMs), [&] { return receipts_ >= receipts; });
}

void Watch::Impl::Lose(const Peer& peer, const std::string& how) {
  if (done_ || ended_ || peer.rank < 0) return;
  if (peer.said_bye && !peer.link.alive()) return;
  const std::string why = options_.names[static_cast<std::size_t>(peer.rank)] + " is gone: " + how;
  SendToAll({.type = FrameType::kEnd, .rank = peer.rank, .value = 1, .text = why}, &peer);
  End(1, why, false);
}

void Watch::Impl::End(int exit_code, const std::string& why, bool told) {
  if (std::exchange(ended_, true)) return;
  if (events_.on_end) events_.on_end(exit_code, why, told);
}

Watch::Watch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Watch::~Watch() = default;

Result<std::unique_ptr<Watch>> Watch::Create(WatchOptions options, WatchEvents events) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(events));
  GM_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Watch>(new Watch(std::move(impl)));
}

void Watch::Start() { impl_->StartThread(); }

const std::string& Watch::endpoint() const { return impl_->endpoint_; }

Status Watch::AwaitEverybody(int deadline_ms) {
  if (impl_->Await(&Impl::everybody_, deadline_ms)) return Ok();
  const std::string limit = " within " + std::to_string(deadline_ms) + " ms";
  if (impl_->hub()) return DeadlineExceeded("no heartbeat connection from " + impl_->Missing() + limit);
  return DeadlineExceeded("rank 0 did not see all ranks" + limit);
}

void Watch::ShareScratch(const std::string& dir) { impl_->ShareScratch(dir); }
std::vector<Scratch> Watch::scratch() const { return impl_->scratch(); }
void Watch::Leave() { impl_->Post({.type = FrameType::kLeave, .rank = impl_->options_.rank, .value = 0, .text = ""}); }
bool Watch::AwaitAllLeft(int wait_ms) { return impl_->Await(&Impl::all_left_, wait_ms); }
void Watch::Bye() { impl_->Post({.type = FrameType::kBye, .rank = impl_->options_.rank, .value = 0, .text = ""}); }
bool Watch::AwaitAllBye(int wait_ms) { return impl_->Await(&Impl::all_bye_, wait_ms); }

void Watch::TellEnd(int exit_code, const std::string& why) {
  impl_->Post({.type = FrameType::kEnd, .rank = impl_->options_.rank, .value = exit_code, .text = why});
  (void)impl_->Await(&Impl::end_told_, kTellMs);
}

struct BlockSignals::Mask {
  sigset_t signals;
};

BlockSignals::BlockSignals() : before_(std::make_unique<Mask>()) {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, &before_->signals);
}

BlockSignals::~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_->signals, nullptr); }

}  // namespace gatemill::launcher
