#include "common/config_check.h"

#include <gtest/gtest.h>

#include "tests/common/config_samples.h"

namespace gatemill {
namespace {

// One contradiction: an override of the small configuration (or a configuration of its own) and what is said about it.
struct Contradiction {
  std::vector<std::string> overrides;
  std::string message;  // a part of the only line
};

class ConfigCheckTest : public testing::TestWithParam<Contradiction> {};

TEST_P(ConfigCheckTest, IsNamedAlone) {
  const std::string message = Mistake(SmallYaml(), GetParam().overrides);
  EXPECT_NE(message.find(GetParam().message), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one mistake, one line:\n" << message;
}

INSTANTIATE_TEST_SUITE_P(
    Contradictions, ConfigCheckTest,
    testing::Values(
        Contradiction{{"data.train=null"}, "data.train: is missing; name the files"},
        Contradiction{{"data.train={where: a > 1}"}, "data.train: has `where` but no files"},
        Contradiction{{"data.header=false"}, "data.header: false needs data.column_names"},
        Contradiction{{"data.column_names=[a, b]"}, "data.column_names: has no effect here, it is for header: false"},
        Contradiction{{"data.split=0.8"}, "data.split: and data.valid contradict each other"},
        Contradiction{{"data.root=${GATEMILL_NOT_SET}/x"}, "GATEMILL_NOT_SET is not set; set it or write"},
        Contradiction{{"data.test=${X:-a"}, "has a ${ without its }"},
        Contradiction{{"features.1.bucketize={quantiles: 4, boundaries: [1]}", "features.1.transform=null"},
                      "has boundaries and quantiles; keep one"},
        Contradiction{{"features.1.bucketize=[3, 1]", "features.1.transform=null"}, "boundaries must ascend"},
        Contradiction{{"features.1.bucketize={quantiles: 4}"}, "so that `transform` has no effect"},
        Contradiction{{"features.0.bucketize={quantiles: 4}", "features.0.separator=,"}, "not for a list"},
        Contradiction{{"features.0.transform=log1p"},
                      "features.0.transform: has no effect here, it is for type: dense"},
        Contradiction{{"features.1.embedding_dim=4"},
                      "features.1.embedding_dim: has no effect here, it is for type: sparse"},
        Contradiction{{"features.0.max_length=4"}, "features.0.max_length: has no effect here, it is for separator"},
        Contradiction{{"features.1.transform=[minmax, minmax]"}, "minmax stands here twice"},
        Contradiction{{"features.0.name=user"}, "one name cannot stand for many columns"},
        Contradiction{{"features.1.columns=user_id"}, "there is already a feature user_id (line 6)"},
        Contradiction{{"features.1.columns=is_click"}, "is_click takes in is_click, the label of task click"},
        Contradiction{{"features.1.columns=is_*"}, "is_* takes in is_click, the label of task click"},
        Contradiction{{"data.sample_weight=age"}, "age takes in age, the sample weight"},
        Contradiction{{"features.0.embedding_dim=0", "tables={user_id: {embedding_dim: 4}}"},
                      "nothing says how wide the rows of table item_id are"},
        Contradiction{{"tables={user_id: {embedding_dim: 4}}"}, "8 contradicts tables.user_id.embedding_dim: 4"},
        Contradiction{{"tables={usr_id: {embedding_dim: 4}}"},
                      "tables.usr_id: no feature uses this table; did you mean user_id?"},
        Contradiction{{"tables={user_id: {oov_buckets: 10}}", "features.0.oov_buckets=20"},
                      "20 contradicts tables.user_id.oov_buckets: 10"},
        Contradiction{{"tables={user_id: {hash_buckets: 10}}", "features.0.hash_buckets=20"},
                      "20 contradicts tables.user_id.hash_buckets: 10"},
        Contradiction{{"tables={user_id: {eviction: {max_rows: 100}}}"},
                      "tables.user_id.eviction.max_rows: 100 is too small; use at least 16384"},
        Contradiction{{"tables={user_id: {eviction: {idle_steps: 10}}}"},
                      "tables.user_id.eviction.idle_steps: 10 is too small; use at least 64"},
        Contradiction{{"tables={user_id: {eviction: {policy: lfu}}}"}, "policy: has no effect here, it is for max_rows > 0"},
        Contradiction{{"tables={user_id: {admission: {max_candidates: 20000}}}"},
                      "max_candidates: has no effect here, it is for min_count > 1"},
        Contradiction{{"tables={user_id: {oov_buckets: 2, oov_ratio: 0.5, admission: 3}}"},
                      "oov_ratio: has no effect here, it is for oov_buckets > 0 beside it and no admission"},
        Contradiction{{"features.0.hash_buckets=20", "features.0.table=ids"}, "there: tables.NAME.hash_buckets"},
        Contradiction{{"tasks.click.label_name=null"}, "tasks.click.label_name: is missing"},
        Contradiction{{"tasks.click.metrics=[auc, auc]"}, "auc stands here twice"},
        Contradiction{{"tasks.click.metrics=[{gauc: age}, {gauc: age}]"}, "tasks.click.metrics.1: gauc(age) stands here twice"},
        Contradiction{{"tasks.click.loss=mse", "tasks.click.metrics=auc"}, "auc is for labels 0 and 1"},
        Contradiction{{"tasks.click.loss=mse", "tasks.click.metrics=[rmse, {gauc: user_id}]"},
                      "tasks.click.metrics.1: gauc is for labels 0 and 1 (loss: bce or focal); others have rmse, mae, xauc, ndcg, "
                      "calibration and calibration_error"},
        Contradiction{{"tasks.click.loss=mse", "tasks.click.metrics=[ne]"}, "ne is for labels 0 and 1"},
        Contradiction{{"tasks.click.loss=mse", "tasks.click.metrics=[accuracy]"}, "accuracy is for labels 0 and 1"},
        Contradiction{{"tasks.click.loss=mse", "tasks.click.metrics=[{recall: user_id}]"}, "recall is for labels 0 and 1"},
        Contradiction{{"tasks.click.metrics=[gauc]"},
                      "tasks.click.metrics.0.gauc.by: is missing; name the column of the groups, such as {gauc: user_id}"},
        Contradiction{{"tasks.click.metrics=[{ndcg: {k: 3}}]"}, "tasks.click.metrics.0.ndcg.by: is missing"},
        Contradiction{{"tasks.click.metrics=[{gauc: is_click}]"},
                      "tasks.click.metrics.0.gauc.by: is_click is the label, so that each group would have one class"},
        Contradiction{{"features.1.transform=[minmax, log1p]"}, "log1p must come first"},
        Contradiction{{"model.type=single", "model.bottom_mlp=[8]"}, "single shares nothing between tasks"},
        Contradiction{{"model.expert_mlp.hidden_units=[]"}, "an expert has at least one layer"},
        Contradiction{{"model.type=aitm", "model.expert_mlp.hidden_units=[]"}, "an expert has at least one layer"},
        Contradiction{{"model.num_expert=0"}, "model.num_expert: 0: mmoe needs at least one expert"},
        Contradiction{{"model.type=ple", "model.num_expert=0", "model.num_task_expert=0"}, "give at least one of them"},
        Contradiction{{"model.num_expert=2", "model.top_k=3"}, "3 is more than the 2 experts of a gate"},
        Contradiction{{"model.type=ple", "model.num_expert=2", "model.num_task_expert=1", "model.top_k=4"}, "4 is more than the 3 experts"},
        Contradiction{{"model.gate_features=[user_id, user_id]"}, "user_id stands here twice"},
        Contradiction{{"model.tower_mlp.use_bn=true", "model.tower_mlp.use_ln=true"}, "contradicts use_bn; keep one of them"},
        Contradiction{{"model.type=aitm", "model.transfer_mlp=[8]"}, "must end with 32 units, as model.expert_mlp does"},
        Contradiction{{"model.type=esmm", "tasks.click.loss=mse"}, "esmm multiplies probabilities; use bce alone"},
        Contradiction{{"model.type=esmm", "tasks.click.loss=[bce, focal]"}, "esmm multiplies probabilities; use bce alone"},
        Contradiction{{"tasks.click.loss=[bce, mse]"}, "bce and mse predict different things; keep losses of one kind"},
        Contradiction{{"tasks.click.loss=[watch_time, mae]"}, "watch_time and mae predict different things"},
        Contradiction{{"tasks.click.loss=[bce, bce]"}, "bce stands here twice"},
        Contradiction{{"tasks.click.loss={bce: {gamma: 2}}"}, "gamma: has no effect here, it is for focal"},
        Contradiction{{"tasks.click.loss={mse: {label_smoothing: 0.1}}"}, "label_smoothing: has no effect here, it is for bce, focal"},
        Contradiction{{"tasks.click.loss={focal: {alpha: 1.5}}"}, "alpha: must be 0 to 1, found 1.5"},
        Contradiction{{"tasks.click.loss={huber: 0}"}, "delta: must be greater than 0"},
        Contradiction{{"tasks.click.loss=focall"}, "found focall; did you mean focal?"},
        Contradiction{{"tasks.click.loss=l2_loss"}, "write mse"},
        Contradiction{{"tasks.click.label_transform=log1p"}, "label_transform: has no effect here, it is for loss: mse, mae, huber"},
        Contradiction{{"tasks.click.in_task_space_weight=2"}, "has no effect here, it is for task_space_indicator_label"},
        Contradiction{{"tasks.click.task_space_indicator_label=price", "tasks.click.in_task_space_weight=0"}, "are both 0"},
        Contradiction{{"model.initializer={type: linear, scale: 0.1}"}, "scale: has no effect here, it is for type: uniform, normal"},
        Contradiction{{"model.tower_mlp.dropout_ratio=[0.1, 0.2]"}, "has 2 numbers for 1 layers"},
        Contradiction{{"tasks.click.mlp={hidden_units: [4, 4, 4], dropout_ratio: [0, 0]}"},
                      "has 2 numbers for 3 layers"},
        Contradiction{{"train.early_stopping={}", "data.valid=null"},
                      "has nothing to look at; add data.valid or data.split"},
        Contradiction{{"train.early_stopping.monitor=mean(rmse)"},
                      "no task has the metric rmse; write one of loss, mean(auc)"},
        Contradiction{{"train.early_stopping.monitor=clck.auc"}, "there is no such thing to watch"},
        Contradiction{{"train.early_stopping.monitor=click.mae"}, "task click has the metrics auc, logloss"},
        Contradiction{{"train.early_stopping.monitor=click.gauc"},
                      "click.gauc: task click has the metrics auc, logloss; choose one or add it"},
        Contradiction{{"train.early_stopping.monitor=mean(gauc)", "tasks.click.metrics=[auc, calibration, {gauc: a}, {gauc: b}]"},
                      "no task has the metric gauc; write one of loss, mean(auc), mean(gauc(a)), mean(gauc(b)), mean(logloss), "
                      "click.auc, click.gauc(a), click.gauc(b), like.auc, like.logloss"},
        Contradiction{{"train.early_stopping.monitor=click.ndcg@5", "tasks.click.metrics=[{ndcg: user_id}]"},
                      "click.ndcg@5: task click has the metrics ndcg@10; choose one or add it"},
        Contradiction{{"train.early_stopping.monitor=click.calibration", "tasks.click.metrics=calibration"},
                      "calibration is best at 1, so that neither more nor less of it is better"},
        Contradiction{{"train.early_stopping.monitor=mean(gauc)", "tasks.click.metrics=[{group_auc: user_id}]"},
                      "found group_auc; write gauc"},
        Contradiction{{"train.early_stopping.monitor=auc"}, "there is no such thing to watch"},
        Contradiction{{"train.dense_optimizer.momentum=0.9"}, "momentum: has no effect here, it is for type: sgd"},
        Contradiction{{"train.sparse_optimizer.l1=0.9"}, "l1: has no effect here, it is for type: ftrl"},
        Contradiction{{"ps.encryption=on", "ps.transport=ipc"}, "on is for tcp, ps.transport is ipc"}));

TEST(ConfigCheckTest, TwoFeaturesGiveOneTableTwoDims) {
  const std::string yaml = R"(data: {train: a.csv}
features:
  - {columns: a, table: t, embedding_dim: 8}
  - {columns: b, table: t, embedding_dim: 4}
tasks: {x: {label_name: y}}
)";
  EXPECT_EQ(
      Mistake(yaml),
      "c.yaml:4:43: features.1.embedding_dim: table t cannot have rows of 4 numbers here and of 8 in line 3; give both "
      "the same, or each a table of its own");
}

TEST(ConfigCheckTest, GlobsAreLeftToTheData) {
  const std::string yaml = R"(data: {train: a.csv}
tables: {f1: {embedding_dim: 4}}
features: [{columns: "f*", type: sparse, embedding_dim: 4}]
tasks: {x: {label_name: y}}
)";
  EXPECT_EQ(Mistake(yaml), "");
  EXPECT_NE(Mistake(yaml, {"features.0.embedding_dim=null"}).find("the entry's columns are globs"), std::string::npos);
  EXPECT_NE(Mistake(yaml, {"tasks.x.label_name=f9"}).find("f* takes in f9, the label of task x"), std::string::npos);
}

TEST(ConfigCheckTest, MissingSectionsAreAllNamed) {
  const std::string message = Mistake("ps: {threads: 2}\n");
  for (const std::string key : {"data.train: is missing", "features: is missing", "tasks: is missing"}) {
    EXPECT_NE(message.find(key), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace gatemill
