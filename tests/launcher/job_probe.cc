// A rank for job_test: plays one scene and tells on standard output what it sees.
//
//   mpirun ... job_probe SCENE SERVERS [DIRECTORY]
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "launcher/job.h"

namespace {

using gatemill::Ok;
using gatemill::Status;
using gatemill::launcher::Job;

void Print(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

constexpr int kSlowMs = 3000;  // longer than mpirun waits before it kills the others of a rank that failed

int RankOfMpirun() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return rank == nullptr ? 0 : std::atoi(rank);
}

void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// Works until it is stopped or asked to leave; every rank says its process id first.
Status WorkUntilStopped(Job& job) {
  Print("rank " + std::to_string(job.rank()) + " pid " + std::to_string(::getpid()));
  for (int turn = 0; turn < 600 && !job.interrupted(); ++turn) Sleep(100);
  Print("rank " + std::to_string(job.rank()) +
        (job.stop() ? " stopped" : job.leave_requested() ? " leaves" : " was not stopped"));
  return Ok();
}

Status Roles(Job& job) {
  Print("rank " + std::to_string(job.rank()) + "/" + std::to_string(job.size()) + " name [" + job.name() + "] server " +
        std::to_string(job.server_index()) + "/" + std::to_string(job.num_servers()) + " worker " +
        std::to_string(job.worker_index()) + "/" + std::to_string(job.num_workers()) + " hosts " +
        (job.several_hosts() ? "several" : "one") + " at " + job.host_address() + " with " +
        std::to_string(job.ranks_on_host()) + " ranks");
  return Ok();
}

Status ExchangeThings(Job& job) {
  GM_ASSIGN_OR_RETURN(const auto all, job.AllGather("r" + std::to_string(job.rank()) + "-" + std::to_string(job.id())));
  std::string line = "all";
  for (const std::string& each : all) line += " " + each;
  Print(line);
  GM_ASSIGN_OR_RETURN(const auto workers, job.WorkerCollective());
  if (job.is_worker()) {
    float one = 1.0F;
    GM_RETURN_IF_ERROR(workers->AllReduceSum(std::span<float>(&one, 1)));
    Print("worker " + std::to_string(workers->rank()) + " sum " + std::to_string(static_cast<int>(one)));
  } else if (workers) {
    Print("a server got the workers' collective");
  }
  return job.Barrier();
}

// Servers wait, workers leave after a while.
Status WaitAndLeave(Job& job) {
  if (job.is_worker()) {
    Sleep(700);
    Print("worker leaves");
    return job.Leave();
  }
  int ticks = 0;
  GM_RETURN_IF_ERROR(job.WaitForWorkers([&] {
    ++ticks;
    return Ok();
  }));
  Print(std::string("server was released ") + (ticks >= 2 ? "after ticks" : "too soon"));
  const Status bad = job.WaitForWorkers([] { return gatemill::Internal("never asked"); });
  return bad;  // all have left: ok at once
}

Status FailingTick(Job& job) {
  if (job.is_worker()) return WorkUntilStopped(job);
  return job.WaitForWorkers([] { return gatemill::Internal("the shard's thread ended"); });
}

Status AbortAtRankOne(Job& job) {
  Print("rank " + std::to_string(job.rank()) + " pid " + std::to_string(::getpid()));
  if (job.rank() == 1) job.Abort(2, "train.csv:7: label 3 is neither 0 nor 1");
  return job.Barrier().Annotate("the barrier that rank 1 never comes to");
}

Status HangAfterSignal(Job& job) {
  Print("rank " + std::to_string(job.rank()) + " pid " + std::to_string(::getpid()));
  Sleep(60000);
  return Ok();
}

// Never stops to talk, whoever may hear it.
Status TalkOn(Job& job) {
  Print("rank " + std::to_string(job.rank()) + " pid " + std::to_string(::getpid()));
  for (int turn = 0; turn < 60000; ++turn) {
    Print("still here");
    Sleep(1);
  }
  return Ok();
}

Status LeaveWithoutGoodbye(Job& job) {
  if (job.rank() == 1) ::_exit(0);
  return WorkUntilStopped(job);
}

// Rank 1 is gone; the others have an error right then, which they would have to tell apart from one of their own.
Status FailBesideADeath(Job& job) {
  if (job.EndsAnyway(100)) return gatemill::Internal("nobody is gone");
  GM_RETURN_IF_ERROR(job.Barrier());
  if (job.rank() == 1) ::_exit(0);
  Print("rank " + std::to_string(job.rank()) + (job.EndsAnyway(kSlowMs) ? " ends anyway" : " has failed"));
  return gatemill::Internal("what follows");
}

// Ranks 1 and 2 have found mistakes; rank 1 is slow to end, so that mpirun kills it when the others have.
int Disagree(std::unique_ptr<Job> job) {
  const int rank = job->rank();
  const Status ok = job->Agree(Ok());
  if (!ok.ok()) return 1;
  Status status = job->Agree(rank == 0 ? Ok() : gatemill::InvalidInput("rank " + std::to_string(rank) + " lacks a file"));
  job.reset();
  if (rank == 1) Sleep(kSlowMs);
  std::fputs(status.message().c_str(), stderr);
  return status.exit_code();
}

Status Play(const std::string& scene, Job& job) {
  if (scene == "roles") return Roles(job);
  if (scene == "exchange") return ExchangeThings(job);
  if (scene == "leave") return WaitAndLeave(job);
  if (scene == "work") return WorkUntilStopped(job);
  if (scene == "abort") return AbortAtRankOne(job);
  if (scene == "tick") return FailingTick(job);
  if (scene == "hang") return HangAfterSignal(job);
  if (scene == "follow") return FailBesideADeath(job);
  if (scene == "talk") return TalkOn(job);
  if (scene == "vanish") return LeaveWithoutGoodbye(job);
  return gatemill::InvalidInput("no scene " + scene);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto job = Job::Start({.servers = std::atoi(argv[2]), .deadline_ms = 20000});
  if (!job.ok()) {
    if (RankOfMpirun() == 0) Sleep(kSlowMs);
    std::fputs(job.status().message().c_str(), stderr);
    return job.status().exit_code();
  }
  if (argv[1] == std::string("disagree")) return Disagree(std::move(*job));
  if (argc > 3) {
    std::string dir = std::string(argv[3]) + "/rank-XXXXXX";
    if (::mkdtemp(dir.data()) == nullptr) return 1;
    (*job)->RemoveAtAbort(dir);
    if (!(*job)->Barrier().ok()) return 1;
  }
  const Status status = Play(argv[1], **job);
  if (!status.ok()) (*job)->Abort(status.exit_code(), status.message());
  return 0;
}
