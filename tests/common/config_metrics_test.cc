#include "common/config_metrics.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

using Names = std::vector<std::string>;

TEST(ConfigMetricsTest, NamesSayAsMuchAsTellsMetricsApart) {
  const MetricConfig auc{.type = "auc"};
  const MetricConfig by_user{.type = "gauc", .by = "user_id"};
  const MetricConfig by_item{.type = "gauc", .by = "item_id"};
  const MetricConfig ndcg{.type = "ndcg", .by = "user_id"};
  const MetricConfig ndcg_3{.type = "ndcg", .by = "user_id", .k = 3};
  const MetricConfig ndcg_by_item{.type = "ndcg", .by = "item_id"};
  const MetricConfig coarse{.type = "calibration_error"};
  const MetricConfig fine{.type = "calibration_error", .buckets = 20};
  EXPECT_EQ(MetricNames({auc, by_user, coarse}), (Names{"auc", "gauc", "calibration_error"}));
  EXPECT_EQ(MetricNames({by_user, by_item}), (Names{"gauc(user_id)", "gauc(item_id)"}));
  EXPECT_EQ(MetricNames({ndcg, ndcg_3}), (Names{"ndcg@10", "ndcg@3"}));
  EXPECT_EQ(MetricNames({ndcg, ndcg_by_item, ndcg_3}), (Names{"ndcg@10(user_id)", "ndcg@10(item_id)", "ndcg@3"}));
  EXPECT_EQ(MetricNames({coarse, fine}), (Names{"calibration_error(10)", "calibration_error(20)"}));
  EXPECT_EQ(MetricNames({auc, auc}), (Names{"auc", "auc"}));
  EXPECT_EQ(MetricNames({}), Names{});
}

TEST(ConfigMetricsTest, TypesOfNames) {
  EXPECT_EQ(MetricTypeOf("auc"), "auc");
  EXPECT_EQ(MetricTypeOf("ndcg@10"), "ndcg");
  EXPECT_EQ(MetricTypeOf("ndcg@10(user_id)"), "ndcg");
  EXPECT_EQ(MetricTypeOf("gauc(a@b)"), "gauc");
}

TEST(ConfigMetricsTest, ColumnsOfGroupsOnce) {
  TaskConfig click{.name = "click", .metrics = {{.type = "auc"}, {.type = "gauc", .by = "user"}, {.type = "ndcg", .by = "item"}}};
  TaskConfig like{.name = "like", .metrics = {{.type = "recall", .by = "user"}, {.type = "gauc", .by = "tab"}}};
  EXPECT_EQ(GroupColumns({click, like}), (Names{"user", "item", "tab"}));
  EXPECT_EQ(GroupColumns({}), Names{});
}

TEST(ConfigMetricsTest, MonitorsAreTakenApart) {
  const auto expect = [](const char* monitor, const char* task, const char* metric) {
    const auto watched = ParseMonitor(monitor);
    ASSERT_TRUE(watched.has_value()) << monitor;
    EXPECT_EQ(watched->task, task) << monitor;
    EXPECT_EQ(watched->metric, metric) << monitor;
  };
  expect("click.gauc", "click", "gauc");
  expect("click.ndcg@10", "click", "ndcg@10");
  expect("click.gauc(user.id)", "click", "gauc(user.id)");
  expect("mean(gauc)", "", "gauc");
  expect("mean(gauc(user_id))", "", "gauc(user_id)");
  for (const char* none : {"loss", "auc", "", ".auc", "mean(auc"}) EXPECT_FALSE(ParseMonitor(none).has_value()) << none;
}

}  // namespace
}  // namespace gatemill
