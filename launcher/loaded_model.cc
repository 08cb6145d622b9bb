#include "launcher/loaded_model.h"

#include <filesystem>
#include <system_error>
#include <utility>

namespace gatemill::launcher {

Result<std::unique_ptr<LoadedModel>> LoadedModel::Open(const std::string& path,
                                                       const std::vector<std::string>& overrides) {
  std::unique_ptr<LoadedModel> loaded(new LoadedModel());
  loaded->log_ = NewStderrLogger("", LogLevel::kInfo);
  GM_ASSIGN_OR_RETURN(loaded->checkpoint_dir_, train::ResolveCheckpoint(path));
  const std::string& dir = loaded->checkpoint_dir_;
  GM_ASSIGN_OR_RETURN(loaded->checkpoint_, train::LoadCheckpoint(dir));
  // Whole files, whatever part of its data the run was trained on; `--set data.limit=N` comes later and wins.
  std::vector<std::string> all{"ps.transport=inproc", "data.limit=0"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  GM_ASSIGN_OR_RETURN(loaded->config_, ParseConfig(loaded->checkpoint_.config_yaml, dir + "/config.yaml", all));
  GM_ASSIGN_OR_RETURN(loaded->schema_, data::ResolveSchema(loaded->config_, loaded->checkpoint_.columns));
  GM_ASSIGN_OR_RETURN(loaded->job_, Job::Start({}));
  if (loaded->job_->size() > 1) {
    return loaded->job_->Agree(InvalidInput("eval and predict run in one process; start them without mpirun"));
  }
  GM_ASSIGN_OR_RETURN(loaded->session_, Session::Start({.config = &loaded->config_,
                                                        .schema = &loaded->schema_,
                                                        .job = loaded->job_.get(),
                                                        .log = loaded->log_.get(),
                                                        .store_dir = ""}));
  GM_RETURN_IF_ERROR(loaded->session_->Restore(dir, loaded->checkpoint_, false));
  return loaded;
}

Result<PartConfig> FilesOf(const std::vector<std::string>& files) {
  PartConfig part;
  for (const std::string& file : files) {
    std::error_code error;
    part.files.push_back(std::filesystem::absolute(file, error).string());
    if (error || file.empty()) return InvalidInput("--data: \"" + file + "\" is no path of a file");
  }
  return part;
}

Result<std::shared_ptr<const data::Dataset>> LoadedModel::Read(const std::vector<std::string>& files, bool labels) {
  GM_ASSIGN_OR_RETURN(const PartConfig part, FilesOf(files));
  return data::ReadDataset({.schema = &schema_,
                            .data = &config_.data,
                            .log = log_.get(),
                            .seed = config_.train.seed,
                            .stop = &job_->stop(),
                            .labels = labels},
                           data::Part::kTest, &part, false, &checkpoint_.statistics);
}

Result<train::Evaluation> LoadedModel::Evaluate(std::shared_ptr<const data::Dataset> dataset, bool labelled) {
  return train::Evaluate({.schema = &schema_,
                          .client = session_->client(),
                          .model = session_->model(),
                          .workers = session_->workers(),
                          .pool = session_->pool(),
                          .next_step = checkpoint_.cursor.step,
                          .batch_size = config_.train.eval_batch_size,
                          .stop = &job_->stop()},
                         std::move(dataset), labelled);
}

}  // namespace gatemill::launcher
