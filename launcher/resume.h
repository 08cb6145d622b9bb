// Does a configuration go on with the run that a checkpoint is of?
//
//   GM_ASSIGN_OR_RETURN(const auto notes, CompareForResume({&config, streams}, {&then, streamed}, cursor.next_batch > 0));
//   for (const std::string& note : notes) log->Warn(note);
//
// Shapes of tables and parameters are compared where they are restored (ps/shard.h, worker/model). Thread safety: pure
// function.
#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace gatemill::launcher {

struct ResumeSide {
  const Config* config = nullptr;  // with its variables replaced, as ResolvedYaml writes it
  bool streams = false;            // its training part is read batch by batch, not kept in memory
};

// What differs in a way that the result shows, one line each; the same bits are no longer promised then.
// kInvalidInput, listing them, for what must not differ in the middle of an epoch (`mid_epoch`): where a batch begins and
// which samples are in it.
Result<std::vector<std::string>> CompareForResume(const ResumeSide& now_side, const ResumeSide& then_side,
                                                  bool mid_epoch);

// In the order that the configuration has them.
std::vector<std::string> TaskNames(const Config& config);

}  // namespace gatemill::launcher
