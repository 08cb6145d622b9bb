// gatemill bench ps: the parameter server beside what the machine itself can do. Servers are processes of their own for ipc
// and tcp (forked, so this runs before any thread is started), threads of this one in process. With files, of sockets or of rows on disk,
// another process waits for the end of all of them to remove these.
//
// A run fills the table (first touches, in calls of 8,192 keys), then measures in turn, several rounds: the machine's gather
// limit, ZeroMQ alone, pulls, pushes. Figures are medians over the rounds, ratios medians of each round's ratio, so that a
// machine that gets slower meanwhile changes neither much.
#pragma once

#include <CLI/CLI.hpp>

#include "launcher/command.h"

namespace gatemill::launcher {

// Registers `ps` below `bench`.
RunCommand AddBenchPs(CLI::App* bench);

}  // namespace gatemill::launcher
