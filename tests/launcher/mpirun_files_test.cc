#include "launcher/mpirun_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/file.h"
#include "tests/temp_dir.h"

namespace gatemill::launcher {
namespace {

// 202637312 = 0xc140000.
TEST(MpirunFiles, OnlyThoseOfTheMpirunGo) {
  const TempDir dir;
  const std::string uid = std::to_string(::geteuid());
  const std::string owner = "a.host." + uid;
  dir.Write("tmp/ompi." + owner + "/pid.24810/contact.txt", "202637312.0;tcp://192.0.2.2:48583\n24810\n");
  dir.Write("tmp/ompi." + owner + "/pid.24810/1/0/x", "");
  dir.Write("tmp/ompi." + owner + "/pid.2481/contact.txt", "65536.0;tcp://192.0.2.2:48584\n2481\n");
  dir.Write("tmp/ompi.a.host." + uid + "1/pid.24810/contact.txt", "");  // another user's
  dir.Write("tmp/other/pid.24810/contact.txt", "");
  for (const char* segment : {".c140001.0", ".c140001.1", ".c140002.0", ".c150001.0", ".1c140001.0"}) {
    dir.Write("shm/vader_segment." + owner + segment, "");
  }
  dir.Write("shm/vader_segment.b." + owner + ".c140001.0", "");
  dir.Write("shm/other", "");
  ASSERT_TRUE(RemoveMpirunFiles(24810, dir.path() + "/tmp", dir.path() + "/shm").ok());
  EXPECT_EQ(*ListDir(dir.path() + "/shm"),
            (std::vector<std::string>{"other", "vader_segment." + owner + ".1c140001.0",
                                      "vader_segment." + owner + ".c150001.0", "vader_segment.b." + owner + ".c140001.0"}));
  EXPECT_EQ(*ListDir(dir.path() + "/tmp/ompi." + owner), std::vector<std::string>{"pid.2481"});
  EXPECT_TRUE(FileExists(dir.path() + "/tmp/ompi." + owner + "1/pid.24810"));
  EXPECT_TRUE(FileExists(dir.path() + "/tmp/other/pid.24810"));
  ASSERT_TRUE(RemoveMpirunFiles(2481, dir.path() + "/tmp", dir.path() + "/shm").ok());
  EXPECT_FALSE(FileExists(dir.path() + "/tmp/ompi." + owner)) << "it was the last";
  ASSERT_TRUE(RemoveMpirunFiles(2481, dir.path() + "/none", dir.path() + "/none").ok());
}

}  // namespace
}  // namespace gatemill::launcher
