// Small data with something to learn, and a configuration for it: for tests of whole commands.
// Thread safety: free functions.
#pragma once

#include <string>

#include "tests/launcher/commands.h"

namespace gatemill::launcher {

// CSV with the columns user, item, tags ("a|b"), price, click, buy: `rows` lines from a seed.
std::string SmallCsv(int rows, int seed);

// Writes train.csv, valid.csv, test.csv and config.yaml (mmoe; tasks click and buy; all kinds of features) into the
// directory, and returns the configuration's path.
std::string WriteSmallJob(const TempDir& dir, int train_rows = 2000);

// 30,000 samples of synth's click log and a configuration (mmoe; task click) whose some 20,000 rows, most of 64 floats, need far
// more memory than the smallest ps.memory_budget.
std::string WriteSpillingJob(const TempDir& dir);

// The JSON object that the last line of `out` must be.
std::string LastLine(const std::string& out);

}  // namespace gatemill::launcher
