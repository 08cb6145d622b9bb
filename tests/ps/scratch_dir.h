// A directory of a test's own, removed at its end.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "common/file.h"

namespace gatemill::ps {

class ScratchDir {
 public:
  ScratchDir() : path_(testing::TempDir() + "gatemill-ps-XXXXXX") {
    EXPECT_NE(::mkdtemp(path_.data()), nullptr) << "cannot make " << path_;
  }
  ~ScratchDir() { EXPECT_TRUE(RemoveTree(path_).ok()) << path_; }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace gatemill::ps
