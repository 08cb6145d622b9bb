// Strangers on the network of a job that trains: they learn nothing, change no bit and use nothing up; and where the job's secret
// keys are to be found: in the memory of the rank that made them.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.h"
#include "launcher/launch_line.h"
#include "ps/wire/codec.h"
#include "tests/launcher/intruder.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

constexpr int kTurnedAwayMs = 15000;  // until a stranger is turned away: 3 s by ZeroMQ, 5 s by launch, and a slow machine
constexpr int kNoAnswerMs = 1500;
constexpr int kShards = 2;
constexpr int kFirstCheckpoint = 250;

// Ranks 0 and 1 are servers, 2 and 3 workers.
class SecurityTest : public LaunchFixture {
 protected:
  explicit SecurityTest(std::vector<std::string> transport = {"--set", "ps.transport=tcp", "--set", "ps.encryption=on"})
      : LaunchFixture({.servers = kShards, .workers = 2}, With(std::move(transport))) {}

  // The job is longer than a test needs on any machine: it is asked to leave.
  static std::vector<std::string> With(std::vector<std::string> settings) {
    settings.insert(settings.end(), {"--set", "train.num_epochs=10000", "--set", "data.valid=null", "--set",
                                     "train.checkpoint={every_steps: " + std::to_string(kFirstCheckpoint) + ", every_epochs: 0}"});
    return settings;
  }

  static Finished Leave(Process* launch) {
    ::kill(launch->pid(), SIGTERM);
    Finished done = Finish(launch, kSeconds);
    EXPECT_EQ(done.exit_code, 0) << done.err;
    EXPECT_EQ(done.err.find("; restart "), std::string::npos) << done.err;
    EXPECT_TRUE(json::parse(LastLine(done.out), nullptr, false).value("left_early", false)) << done.out;
    return done;
  }

  // The pair that each rank has made, by rank.
  void FindKeys() {
    for (int rank = 0; rank < kShards + 2; ++rank) {
      const std::vector<pid_t> pids = Ranks(rank);
      ASSERT_EQ(pids.size(), 1U);
      const std::vector<ps::CurveKeys> found = KeysInMemory(pids[0]);
      ASSERT_EQ(found.size(), 1U) << "rank " << rank << " has its own secret key and no other";
      keys_.push_back(found[0]);
    }
    std::set<std::string> secrets;
    for (const ps::CurveKeys& keys : keys_) secrets.insert(keys.secret_key);
    ASSERT_EQ(secrets.size(), keys_.size());
  }
  void ExpectNoSecretIn(const std::string& text, const std::string& where) const {
    ASSERT_FALSE(keys_.empty());
    for (std::size_t rank = 0; rank < keys_.size(); ++rank) {
      for (const std::string& form : FormsOf(keys_[rank].secret_key)) {
        EXPECT_EQ(text.find(form), std::string::npos) << "the secret key of rank " << rank << " is in " << where;
      }
    }
  }
  // The directory of the test is that for temporary files, too.
  void ExpectNoSecretInFiles() const {
    std::size_t read = 0;
    const auto files = ListTree(dir_.path());
    ASSERT_TRUE(files.ok()) << files.status().message();
    for (const std::string& file : *files) {
      const std::string contents = ReadIfThere(dir_.path() + "/" + file);
      ExpectNoSecretIn(contents, file);
      read += contents.size();
    }
    EXPECT_GT(read, 100'000U);
  }

  std::vector<ps::CurveKeys> keys_;
};

class StrangersTest : public SecurityTest {
 protected:
  // Every bit of the model at a step.
  static std::string Model(const std::string& run, int step) {
    const std::string number = std::to_string(step);
    return Export(run + "/checkpoints/step-" + std::string(9 - number.size(), '0') + number, run + ".safetensors");
  }
  // The same run as far as this one has come, over another transport.
  void ExpectTheBitsOfAnUndisturbedRun() const {
    const int step = NewestStep();
    ASSERT_GE(step, kFirstCheckpoint);
    const std::string run = dir_.path() + "/undisturbed";
    std::vector<std::string> command = Mpirun(2, {Binary(), "train", config_, "--run-dir", run});
    AddSettings(&command);
    command.insert(command.end(), {"--set", "ps.transport=ipc", "--set", "ps.encryption=auto", "--set",
                                   "train.max_steps=" + std::to_string(step), "--set",
                                   "train.checkpoint.every_steps=0"});
    const Finished done = RunProgram(command, kSeconds);
    ASSERT_EQ(done.exit_code, 0) << done.err;
    EXPECT_TRUE(Model(run_, step) == Model(run, step)) << "the model has other bits";
  }

  // The ports of launch and of the shards.
  void FindPorts(pid_t launch) {
    line_ = ListeningPorts({launch});
    ASSERT_EQ(line_.size(), 1U);
    const std::vector<Port> all = ListeningPorts(Ranks());
    for (int turn = 0; turn < 20 && shards_.size() < kShards; ++turn) {
      shards_.clear();
      for (const Conversation& talk : Talk(all, {ZmtpGreeting(3, 1, "CURVE")}, 300)) {  // Open MPI's do not close
        if (talk.answer == ZmtpGreeting(3, 1, "CURVE")) shards_.push_back(talk.port);
      }
    }
    ASSERT_EQ(shards_.size(), static_cast<std::size_t>(kShards));
    for (const Port& shard : shards_) EXPECT_EQ(shard.address, "127.0.0.1") << "the job is on one host";
  }

  // What strangers may say first. Some are longer than what one read takes.
  static std::vector<std::string> Words() {
    const std::string curve = ZmtpGreeting(3, 1, "CURVE");
    const std::string hello = "\x05HELLO";
    return {"GET /metrics HTTP/1.1\r\nHost: shard\r\n\r\n",
            "\n\n\n\n",
            std::string(200'000, '\0'),
            std::string(200'000, '\xff'),
            ZmtpGreeting(3, 0, "NULL") + std::string("\x04\x1c\x05READY\x0bSocket-Type\0\0\0\6DEALER", 30),
            ZmtpGreeting(3, 0, "PLAIN") + std::string("\x04\x12\x05HELLO\x05" "admin\x05" "admin", 20),
            ZmtpGreeting(2, 0, ""),
            ZmtpGreeting(1, 0, ""),
            std::string("\x01\0", 2) + std::string(100, '\x02'),
            curve + "\x06" + std::string(8, '\x7f') + std::string(100'000, 'x'),            // a command that never ends
            curve + std::string("\x06\0\0\0\0\x7f\xff\xff\xff", 9) + std::string(100'000, 'x'),  // one of 2 GiB
            curve + "\x04\xc8" + hello + std::string(194, 'h'),                               // of the right size
            curve + "\x04\x10" + hello + std::string(10, 'h'),
            std::string("\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0", 16) + std::string(32, 'f'),  // hello to launch, a wrong token
            std::string("\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16),
            std::string("\x01\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff", 16) + std::string(200'000, 't')};
  }

  void ExpectTurnedAway(const std::vector<Conversation>& talks) const {
    const std::string greeting = ZmtpGreeting(3, 1, "CURVE");
    for (const Conversation& talk : talks) {
      const std::string what = talk.port.EndPoint() + ", told " + testing::PrintToString(talk.said.substr(0, 40));
      EXPECT_TRUE(talk.connected) << what;
      EXPECT_TRUE(talk.closed) << what;
      const bool line = talk.port.number == line_[0].number;
      EXPECT_TRUE(line ? talk.answer.empty() : greeting.starts_with(talk.answer))
          << what << ", answered " << testing::PrintToString(talk.answer);
    }
  }

  // A shard's hello, which says which tables it has, and the op that drops them all, with a job's number that was guessed.
  static void ExpectNoAnswer(const std::string& endpoint, const std::string& server_key, const ps::CurveKeys& keys) {
    auto transport = ps::Transport::Create({.keys = keys, .admitted = {}});
    ASSERT_TRUE(transport.ok()) << transport.status().message();
    auto channel = (*transport)->Connect({endpoint}, {server_key});
    ASSERT_TRUE(channel.ok()) << channel.status().message();
    for (const ps::Op op : {ps::Op::kHello, ps::Op::kClear}) {
      ps::Request request;
      request.op = op;
      request.stamp.job = 0x0123456789abcdefULL;
      EXPECT_TRUE((*channel)->Send(0, request).ok());
    }
    const auto reply = (*channel)->Receive(kNoAnswerMs);
    ASSERT_TRUE(reply.ok()) << reply.status().message();
    EXPECT_FALSE(reply->has_value()) << (*reply)->error;
  }

  std::vector<Port> line_;    // launch's
  std::vector<Port> shards_;
};

TEST_F(StrangersTest, LearnNothingAndChangeNoBit) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, kFirstCheckpoint)) << launch.err();
  ASSERT_NO_FATAL_FAILURE(FindPorts(launch.pid()));
  ASSERT_NO_FATAL_FAILURE(FindKeys());
  std::vector<Port> ours = shards_;
  ours.push_back(line_[0]);

  // Keys: no shard lets in one that it does not know; who has a worker's is let in, but does not know the job.
  const auto stranger = ps::NewCurveKeys();
  ASSERT_TRUE(stranger.ok());
  const ps::CurveKeys& worker = keys_[kShards];
  std::vector<std::jthread> intruders;
  for (const Port& shard : shards_) {
    const std::string endpoint = shard.EndPoint();
    const std::string server_key = keys_[Ranks(0).at(0) == shard.pid ? 0 : 1].public_key;
    EXPECT_TRUE(IsLetIn(endpoint, server_key, worker, kTurnedAwayMs));
    const auto is_not_let_in = [endpoint](const std::string& server, const ps::CurveKeys& keys, const char* whose) {
      EXPECT_FALSE(IsLetIn(endpoint, server, keys, kNoAnswerMs)) << whose;
    };
    intruders.emplace_back(is_not_let_in, server_key, *stranger, "a stranger's key");
    intruders.emplace_back(is_not_let_in, server_key, keys_[0], "a server's key");
    intruders.emplace_back(is_not_let_in, stranger->public_key, worker, "an impostor's key");
    intruders.emplace_back(ExpectNoAnswer, endpoint, server_key, *stranger);
    intruders.emplace_back(ExpectNoAnswer, endpoint, server_key, worker);
  }

  const int step_before = NewestStep();
  // Many that say nothing, and stay as long as they are let, and some that speak.
  const auto open_files = [](const Port& port) { return NamesIn("/proc/" + std::to_string(port.pid) + "/fd").size(); };
  std::vector<std::size_t> open_before;
  for (const Port& port : ours) open_before.push_back(open_files(port));
  std::vector<std::string> words = Words();
  words.resize(words.size() + 250);
  ExpectTurnedAway(Talk(ours, words, kTurnedAwayMs));
  for (std::size_t i = 0; i < ours.size(); ++i) {
    EXPECT_LE(open_files(ours[i]), open_before[i] + 100) << ours[i].EndPoint();  // a checkpoint opens some, too
  }

  // Who claims to be rank 0, and that the job is over.
  auto socket = ConnectTcp("127.0.0.1", line_[0].number, kTurnedAwayMs);
  ASSERT_TRUE(socket.ok()) << socket.status().message();
  Link link(std::move(*socket));
  link.Send({.type = FrameType::kHello, .rank = 0, .value = 0, .text = std::string(32, '0')});
  link.Send({.type = FrameType::kEnd, .rank = 0, .value = 1, .text = "the job is over"});
  link.Send({.type = FrameType::kAllBye, .rank = 0, .value = 0, .text = ""});

  std::size_t heard = 0;
  EXPECT_TRUE(launch.WaitFor(kTurnedAwayMs, [&](const Process&) {
    heard += link.Read().size();
    return !link.alive();
  }));
  EXPECT_EQ(heard, 0U);
  intruders.clear();  // joins them

  ASSERT_TRUE(launch.running()) << "the strangers came too late\n" << launch.err();
  EXPECT_GT(NewestStep(), step_before) << "training goes on beside them";
  (void)Leave(&launch);
  ExpectTheBitsOfAnUndisturbedRun();
}

class SecretsTest : public SecurityTest {};

TEST_F(SecretsTest, AreInNoFileNoLogAndNoProcessList) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, kFirstCheckpoint)) << launch.err();
  ASSERT_NO_FATAL_FAILURE(FindKeys());
  const std::string environment = ReadIfThere("/proc/" + std::to_string(Ranks(0)[0]) + "/environ");
  const std::size_t variable = environment.find(std::string(kInvitationVariable) + "=");
  ASSERT_NE(variable, std::string::npos);
  const auto invitation = Invitation::FromText(environment.substr(variable + std::string(kInvitationVariable).size() + 1,
                                                                  environment.find('\0', variable) - variable -
                                                                      std::string(kInvitationVariable).size() - 1));
  ASSERT_TRUE(invitation.ok()) << invitation.status().message();
  const std::vector<pid_t> pids = OwnProcesses();
  EXPECT_GE(pids.size(), 6U) << "launch, mpirun and the ranks";
  for (const pid_t pid : pids) {
    const std::string proc = "/proc/" + std::to_string(pid);
    ExpectNoSecretIn(ReadIfThere(proc + "/environ"), proc + "/environ");
    const std::string command = ReadIfThere(proc + "/cmdline");
    ExpectNoSecretIn(command, proc + "/cmdline");
    EXPECT_EQ(command.find(invitation->token), std::string::npos) << "launch's token is on a command line";
    struct stat of_environ {};
    ASSERT_EQ(::stat((proc + "/environ").c_str(), &of_environ), 0);
    EXPECT_EQ(of_environ.st_mode & 0077, 0U) << proc << "/environ has launch's token";
  }
  for (const std::string& file : SharedMemory()) ExpectNoSecretIn(ReadIfThere(file), file);
  ExpectNoSecretInFiles();
  const Finished done = Leave(&launch);
  ExpectNoSecretInFiles();
  ExpectNoSecretIn(done.out, "standard output");
  ExpectNoSecretIn(done.err, "standard error");
  EXPECT_EQ(done.err.find(invitation->token), std::string::npos);
}

// MPI is not encrypted: what it carries can be read, and the public keys are there.
TEST_F(SecretsTest, AreNeverOnTheWire) {
  auto wire = Eavesdropper::Start();
  if (!wire.ok()) GTEST_SKIP() << wire.status().message();
  Process launch(Launch({"--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"}));
  ASSERT_TRUE(AwaitCheckpoint(&launch, kFirstCheckpoint)) << launch.err();
  ASSERT_NO_FATAL_FAILURE(FindKeys());
  (void)Leave(&launch);
  const std::string heard = (*wire)->Stop();
  for (const ps::CurveKeys& keys : keys_) {
    EXPECT_NE(heard.find(keys.public_key), std::string::npos) << "nothing was heard of it";
  }
  ExpectNoSecretIn(heard, "packets");
}

// Without tcp anybody who may open a shard's socket file could speak to it.
class SocketFilesTest : public SecurityTest {
 protected:
  SocketFilesTest() : SecurityTest({"--set", "ps.transport=ipc"}) {}
};

TEST_F(SocketFilesTest, LieInDirectoriesOfTheirOwnersAlone) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, kFirstCheckpoint)) << launch.err();
  int sockets = 0;
  std::set<std::string> dirs;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_.path())) {
    if (!entry.is_socket()) continue;
    ++sockets;
    dirs.insert(entry.path().parent_path().string());
  }
  EXPECT_EQ(sockets, kShards);
  for (const std::string& dir : dirs) {
    struct stat status {};
    ASSERT_EQ(::stat(dir.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700U) << dir;
    EXPECT_EQ(status.st_uid, ::geteuid()) << dir;
  }
  (void)Leave(&launch);
}

}  // namespace
}  // namespace gatemill::launcher
