// Does a configuration go on with the run that a checkpoint is of?
//
//   GM_ASSIGN_OR_RETURN(const auto notes, CompareForResume(config, checkpoint_config, cursor.next_batch > 0));
//   for (const std::string& note : notes) log->Warn(note);
//
// Tables and the model are compared where they are restored (ps/shard.h, worker/model). Thread safety: pure function.
#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace gatemill::launcher {

// What differs in a way that the result shows, one line each; the same bits are no longer promised then.
// kInvalidInput, listing them, for what must not differ in the middle of an epoch (`mid_epoch`): where a batch begins and
// which samples are in it.
Result<std::vector<std::string>> CompareForResume(const Config& now, const Config& then, bool mid_epoch);

}  // namespace gatemill::launcher
