// gatemill bench checkpoint: what checkpoints of a large table cost, and what training beside them keeps of its speed.
//
// A server of this process with a store on disk, and one worker without a model: its steps are pulls and pushes alone, so what a
// checkpoint takes from them is the most that it can take. In turn:
//   full       every row is dirty; nothing else is done. From the cut until the manifest is in place
//   changed    some rows have changed, over and over; what the figures add up to, compactions included
//   beside     every row is dirty; steps go on. Their speed while it is written, beside their speed before and after
//   restore    a new server takes the last one: until its first pull is answered
#pragma once

#include <CLI/CLI.hpp>

#include "launcher/command.h"

namespace gatemill::launcher {

// Registers `checkpoint` below `bench`. *added: the subcommand.
RunCommand AddBenchCheckpoint(CLI::App* bench, CLI::App** added);

}  // namespace gatemill::launcher
