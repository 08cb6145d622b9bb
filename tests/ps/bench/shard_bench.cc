// What lies between a shard's socket and its tables, each by itself: ps_shard_bench [--benchmark_filter=REGEX].
// Rows a second, in calls of as many keys as the argument says; 16 floats.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/random.h"
#include "ps/gradient_sum.h"
#include "ps/key_split.h"
#include "ps/shard.h"
#include "ps/wire/codec.h"

namespace gatemill::ps {
namespace {

constexpr std::size_t kDim = 16;
constexpr std::uint64_t kSeed = 42;

std::vector<std::uint64_t> Keys(std::size_t n, std::uint64_t stream) {
  RandomStream random(kSeed, stream);
  std::vector<std::uint64_t> keys(n);
  for (std::uint64_t& key : keys) key = random();
  return keys;
}

void SetRate(benchmark::State* state) { state->SetItemsProcessed(state->iterations() * state->range(0)); }

// Two workers' gradients; half of the second's keys are the first's too.
void BM_GradientSum(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  const std::vector<std::uint64_t> first = Keys(n, 0);
  std::vector<std::uint64_t> second = Keys(n, 1);
  for (std::size_t i = 0; i < n; i += 2) second[i] = first[i];
  const std::vector<float> grads(n * kDim, 0.5F);
  GradientSum sum;
  for (auto _ : state) {
    sum.Reset(kDim, 2 * n);
    sum.Add(first, grads);
    sum.Add(second, grads);
    benchmark::DoNotOptimize(sum.grads().data());
  }
  state.SetItemsProcessed(state.iterations() * 2 * state.range(0));
}

// Keys a second; the second argument: shards.
void BM_SplitKeys(benchmark::State& state) {
  const std::vector<std::uint64_t> keys = Keys(static_cast<std::size_t>(state.range(0)), 0);
  std::vector<std::uint64_t> sent(keys.size());
  KeySplit split;
  for (auto _ : state) {
    split.Assign(keys, static_cast<std::uint32_t>(state.range(1)));
    split.Gather(keys, sent.data());
    benchmark::DoNotOptimize(sent.data());
  }
  SetRate(&state);
}

Request PushRequest(std::size_t n, std::uint64_t step) {
  Request request;
  request.op = Op::kPush;
  request.id = step + 1;
  request.stamp.step = step;
  request.parts.push_back({.table = 0,
                           .count = n,
                           .keys = Frame::Own(Keys(n, step % 16)),
                           .rows = Frame::Own(std::vector<float>(n * kDim, 0.01F))});
  return request;
}

void BM_EncodeAndDecode(benchmark::State& state) {
  const Request request = PushRequest(static_cast<std::size_t>(state.range(0)), 0);
  for (auto _ : state) {
    Result<WireMessage> message = EncodeRequest(request);
    benchmark::DoNotOptimize(DecodeRequest(message->header.bytes(), message->frames).status.ok());
  }
  SetRate(&state);
}

// A shard with a table of a million rows, and pulls or pushes of 16 batches in turn.
void BM_ShardHandles(benchmark::State& state, Op op) {
  TableSpec spec;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer.type = "rowwise_adagrad";
  const std::unique_ptr<Shard> shard = Shard::Create({}, {spec}, NewMemoryRowStore()).value();
  std::vector<OutgoingReply> replies;
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<Request> requests;
  for (std::uint64_t step = 0; step < 16; ++step) requests.push_back(PushRequest(n, step));
  for (const Request& request : requests) shard->Handle({}, request, &replies);
  std::uint64_t step = requests.size();
  for (auto _ : state) {
    Request request = requests[step % requests.size()];
    request.op = op;
    request.id = step + 1;
    request.stamp.step = op == Op::kPush ? step : requests.size();
    if (op == Op::kPull) request.parts[0].rows = {};
    replies.clear();
    shard->Handle({}, std::move(request), &replies);
    if (replies.size() != 1 || replies[0].reply.code != Code::kOk) state.SkipWithError("the shard refused");
    ++step;
  }
  SetRate(&state);
}

BENCHMARK(BM_GradientSum)->Arg(8'192)->Arg(65'536);
BENCHMARK(BM_SplitKeys)->Args({65'536, 2})->Args({65'536, 8})->Args({65'536, 64});
BENCHMARK(BM_EncodeAndDecode)->Arg(1)->Arg(65'536);
BENCHMARK_CAPTURE(BM_ShardHandles, pull, Op::kPull)->Arg(8'192)->Arg(65'536);
BENCHMARK_CAPTURE(BM_ShardHandles, push, Op::kPush)->Arg(8'192)->Arg(65'536);

}  // namespace
}  // namespace gatemill::ps

BENCHMARK_MAIN();
