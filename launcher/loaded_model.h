// A trained model in one process, ready to score: for eval, predict and bench.
//
//   GM_ASSIGN_OR_RETURN(auto loaded, LoadedModel::Open(path, overrides));   // a run or a checkpoint
//   GM_ASSIGN_OR_RETURN(auto dataset, loaded->Read(files, labels));
//   GM_ASSIGN_OR_RETURN(auto evaluation, loaded->Evaluate(dataset, labelled));
//
// Errors: kInvalidInput for a path that is no run or checkpoint; kDataLoss for a damaged one. Thread safety: one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/log.h"
#include "launcher/job.h"
#include "launcher/session.h"
#include "worker/train/checkpoint.h"
#include "worker/train/evaluator.h"

namespace gatemill::launcher {

class LoadedModel {
 public:
  static Result<std::unique_ptr<LoadedModel>> Open(const std::string& path, const std::vector<std::string>& overrides);

  // `files`: paths and globs as the user typed them.
  Result<std::shared_ptr<const data::Dataset>> Read(const std::vector<std::string>& files, bool labels);
  Result<train::Evaluation> Evaluate(std::shared_ptr<const data::Dataset> dataset, bool labelled);

  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const data::Schema& schema() const { return schema_; }
  [[nodiscard]] const std::string& checkpoint_dir() const { return checkpoint_dir_; }
  [[nodiscard]] Logger* log() const { return log_.get(); }
  [[nodiscard]] const Clock* clock() const { return session_->clock(); }

 private:
  LoadedModel() = default;
  std::unique_ptr<Logger> log_;
  std::unique_ptr<Job> job_;
  std::string checkpoint_dir_;
  train::Checkpoint checkpoint_;
  Config config_;
  data::Schema schema_;
  std::unique_ptr<Session> session_;
};

// The user's files as a part: paths are relative to where the command runs, not to data.root. kInvalidInput for no path.
Result<PartConfig> FilesOf(const std::vector<std::string>& files);

}  // namespace gatemill::launcher
