#include "ps/retention.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "common/keys.h"

namespace gatemill::ps {
namespace {

constexpr std::size_t kSeenAtOnce = 4096;
constexpr std::uint64_t kSweepsPerIdle = 4;      // a row stays at most a part of idle_steps too long
constexpr std::uint64_t kDaySweepSteps = 1024;   // where only days count
constexpr std::uint64_t kEvictedPart = 16;       // of a vshard's share, at once
constexpr std::uint64_t kLimitSteps = 16;        // in which every vshard is looked at once for having too many rows

std::uint64_t SweepSteps(const EvictionConfig& eviction) {
  const std::uint64_t days = eviction.idle_days > 0 ? kDaySweepSteps : ~0ULL;
  const std::uint64_t steps =
      eviction.idle_steps > 0 ? std::max<std::uint64_t>(1, static_cast<std::uint64_t>(eviction.idle_steps) / kSweepsPerIdle)
                              : ~0ULL;
  const std::uint64_t sweep = std::min(days, steps);
  return sweep == ~0ULL ? 0 : sweep;
}

}  // namespace

Result<Retention> Retention::Create(TieredTables* tables, const std::vector<TableSpec>& specs, VshardRange vshards) {
  Retention made(tables, vshards);
  for (std::uint32_t t = 0; t < specs.size(); ++t) {
    const TableSpec& spec = specs[t];
    Policy policy;
    policy.min_count = static_cast<std::uint32_t>(spec.admission.min_count);
    if (policy.min_count > 1) {
      const std::optional<std::uint32_t> companion = FindSightings(specs, t);
      if (!companion.has_value()) {
        return InvalidInput("table '" + spec.name + "' admits keys after " + std::to_string(policy.min_count) +
                            " sightings, and the job has no table '" + SightingsTable(spec).name + "' for them");
      }
      policy.sightings = *companion;
      const TableSpec& counts = specs[*companion];
      if (counts.dim != 1 || tables->state_dim(*companion) != 0) {
        return InvalidInput("table '" + counts.name + "' is no table for the counts of table '" + spec.name + "'");
      }
    }
    const EvictionConfig& eviction = spec.eviction;
    policy.idle_steps = static_cast<std::uint64_t>(eviction.idle_steps);
    policy.idle_days = static_cast<std::uint32_t>(eviction.idle_days);
    policy.sweep_steps = SweepSteps(eviction);
    policy.swept.assign(policy.sweep_steps != 0 ? kNumVshards : 0, 0);
    policy.vshard_rows = static_cast<std::uint64_t>(eviction.max_rows) / kNumVshards;
    policy.order = eviction.policy == "lfu" ? EvictionOrder::kLeastOften : EvictionOrder::kLeastRecent;
    made.policies_.push_back(policy);
  }
  return made;
}

// ---- admission ----------------------------------------------------------------------------------------------------------

Status Retention::Update(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> grads,
                         std::uint64_t step) {
  if (!admits(table)) return tables_->Update(table, keys, grads, step);
  absent_.clear();
  GM_RETURN_IF_ERROR(tables_->FindAbsent(table, keys, &absent_));
  if (absent_.empty()) return tables_->Update(table, keys, grads, step);
  const auto dim = static_cast<std::size_t>(tables_->spec(table).dim);
  present_keys_.clear();
  present_grads_.clear();
  unseen_.clear();
  auto next = absent_.begin();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (next != absent_.end() && *next == i) {
      unseen_.push_back(keys[i]);
      ++next;
      continue;
    }
    present_keys_.push_back(keys[i]);
    const std::span<const float> grad = grads.subspan(i * dim, dim);
    present_grads_.insert(present_grads_.end(), grad.begin(), grad.end());
  }
  GM_RETURN_IF_ERROR(tables_->Update(table, present_keys_, present_grads_, step));
  return See(table, unseen_, step);
}

Status Retention::See(std::uint32_t table, std::span<const std::uint64_t> keys, std::uint64_t step) {
  Policy& policy = policies_[table];
  for (std::size_t begin = 0; begin < keys.size(); begin += kSeenAtOnce) {
    const std::span<const std::uint64_t> some = keys.subspan(begin, std::min(kSeenAtOnce, keys.size() - begin));
    absent_.clear();
    GM_RETURN_IF_ERROR(tables_->FindAbsent(table, some, &absent_));
    keys_.clear();
    positions_.Reset(absent_.size());
    for (const std::uint32_t at : absent_) {
      const auto next = static_cast<std::uint32_t>(keys_.size());
      if (positions_.FindOrInsert(some[at], keys_, next) == next) keys_.push_back(some[at]);
    }
    headers_.resize(keys_.size());
    found_.resize(keys_.size());
    GM_RETURN_IF_ERROR(tables_->ReadHeaders(policy.sightings, keys_, headers_, found_));
    first_.clear();
    counted_.clear();
    admitted_.clear();
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      if (found_[i] == 0) {
        first_.push_back(keys_[i]);
      } else if (headers_[i].last_step < step) {  // else another worker saw it in this step, or in a later one
        (headers_[i].updates + 1 < policy.min_count ? counted_ : admitted_).push_back(keys_[i]);
      }
    }
    zeros_.assign(counted_.size(), 0.0F);  // an update is a count
    GM_RETURN_IF_ERROR(tables_->Update(policy.sightings, counted_, zeros_, step));
    const auto now = static_cast<std::uint32_t>(step);
    GM_RETURN_IF_ERROR(tables_->Make(policy.sightings, first_, {.updates = 1, .last_step = now}));
    GM_RETURN_IF_ERROR(tables_->Make(table, admitted_, {.updates = 0, .last_step = now}));
    GM_RETURN_IF_ERROR(tables_->Erase(policy.sightings, admitted_));
    policy.stats.admitted_rows += admitted_.size();
  }
  return Ok();
}

// ---- eviction -----------------------------------------------------------------------------------------------------------

Status Retention::EndStep(std::uint64_t step, std::uint32_t day) {
  if (day != 0) AddDay(day, step, &days_);
  for (std::uint32_t t = 0; t < policies_.size(); ++t) {
    if (policies_[t].sweep_steps != 0) GM_RETURN_IF_ERROR(Sweep(t, step));
    if (policies_[t].vshard_rows != 0) GM_RETURN_IF_ERROR(Limit(t, step));
  }
  return Ok();
}

void Retention::Restart(DayLog days) {
  days_ = std::move(days);
  for (Policy& policy : policies_) std::fill(policy.swept.begin(), policy.swept.end(), 0);
}

// Rows last updated before this step are idle. Of steps before the log begins the day is not known: they are not.
std::uint64_t Retention::OldestKept(const Policy& policy, std::uint64_t step) const {
  std::uint64_t oldest = 0;
  if (policy.idle_steps != 0 && step > policy.idle_steps) oldest = step - policy.idle_steps;
  if (policy.idle_days != 0 && !days_.empty() && days_.back().day > policy.idle_days) {
    const std::uint32_t first_day = days_.back().day - policy.idle_days;
    const auto start = std::find_if(days_.begin(), days_.end(), [&](const DayStart& day) { return day.day >= first_day; });
    if (start != days_.begin()) oldest = std::max(oldest, start->first_step);
  }
  return oldest;
}

// The vshards whose turn it is in a round of `steps` steps.
VshardRange Retention::TurnOf(std::uint64_t step, std::uint64_t steps) const {
  const std::uint64_t turn = step % steps;
  const auto first = static_cast<std::uint32_t>(turn * kNumVshards / steps);
  const auto end = static_cast<std::uint32_t>((turn + 1) * kNumVshards / steps);
  return {.first = std::max(first, vshards_.first), .end = std::min(end, vshards_.end)};
}

Status Retention::Sweep(std::uint32_t table, std::uint64_t step) {
  Policy& policy = policies_[table];
  const std::uint64_t oldest = OldestKept(policy, step);
  const VshardRange turn = TurnOf(step, policy.sweep_steps);
  for (std::uint32_t vshard = turn.first; vshard < turn.end; ++vshard) {
    if (policy.swept[vshard] == oldest) continue;  // updates only make rows younger: there is nothing new to find
    GM_ASSIGN_OR_RETURN(const std::uint64_t erased, tables_->EraseIdle(table, vshard, oldest));
    policy.swept[vshard] = oldest;
    policy.stats.idle_rows += erased;
  }
  return Ok();
}

Status Retention::Limit(std::uint32_t table, std::uint64_t step) {
  Policy& policy = policies_[table];
  const std::uint64_t keep = policy.vshard_rows - policy.vshard_rows / kEvictedPart;
  const VshardRange turn = TurnOf(step, kLimitSteps);
  for (std::uint32_t vshard = turn.first; vshard < turn.end; ++vshard) {
    if (tables_->rows(table, vshard) <= policy.vshard_rows) continue;
    GM_ASSIGN_OR_RETURN(const std::uint64_t erased, tables_->EraseDownTo(table, vshard, keep, policy.order));
    policy.stats.excess_rows += erased;
  }
  return Ok();
}

}  // namespace gatemill::ps
