#include <gtest/gtest.h>

#include <cstdlib>

#include "common/config.h"
#include "common/file.h"

namespace gatemill {
namespace {

// GATEMILL_WRITE_DOCS=1 writes the page instead of comparing it.
TEST(ConfigReferenceTest, DocsAreTheDescription) {
  const std::string path = std::string(GATEMILL_SOURCE_DIR) + "/docs/config.md";
  if (std::getenv("GATEMILL_WRITE_DOCS") != nullptr) {
    ASSERT_TRUE(WriteFileAtomic(path, ConfigReference()).ok());
  }
  const Result<std::string> page = ReadFile(path);
  ASSERT_TRUE(page.ok()) << page.status().message();
  EXPECT_EQ(*page, ConfigReference()) << "docs/config.md is stale: run this test with GATEMILL_WRITE_DOCS=1";
}

TEST(ConfigReferenceTest, EachSectionOnceWithTypeRangeDefaultAndMeaning) {
  const std::string page = ConfigReference();
  for (const std::string title :
       {"config", "data", "part", "split", "table", "initializer", "sparse optimizer", "feature", "bucketize", "model",
        "mlp", "task", "metric", "train", "dense optimizer", "early stopping", "checkpoint", "ps"}) {
    const std::size_t first = page.find("\n## " + title + "\n");
    ASSERT_NE(first, std::string::npos) << title;
    EXPECT_EQ(page.find("\n## " + title + "\n", first + 1), std::string::npos) << title;
  }
  EXPECT_NE(page.find("| `num_expert` | whole number, 0 to 1024 | `8` |"), std::string::npos);
  EXPECT_NE(page.find("| `gate_mlp` | [mlp](#mlp) | `null` |"), std::string::npos);
  EXPECT_NE(page.find("| `metrics` | one or a list, each a [metric](#metric): auc, gauc, "), std::string::npos);
  EXPECT_NE(
      page.find("| `momentum` | number, at least 0, less than 1 | `0` | Share of the last update that is kept. Only "
                "with type: sgd. |"),
      std::string::npos);
}

}  // namespace
}  // namespace gatemill
