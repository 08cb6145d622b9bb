#include "worker/train/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "common/file.h"
#include "common/safetensors.h"
#include "ps/checkpoint.h"

namespace gatemill::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kDense = "dense.safetensors";
constexpr const char* kWorker = "worker.json";
constexpr const char* kConfig = "config.yaml";
constexpr const char* kStepPrefix = "step-";
constexpr const char* kUnfinished = ".tmp";

json CursorToJson(const Cursor& cursor) {
  json out = {{"step", cursor.step},
              {"epoch", cursor.epoch},
              {"next_batch", cursor.next_batch},
              {"samples", cursor.samples},
              {"best_step", cursor.best_step},
              {"epochs_without_improvement", cursor.epochs_without_improvement}};
  out["best_value"] = cursor.best_value ? json(*cursor.best_value) : json(nullptr);
  return out;
}

Cursor CursorFromJson(const json& in) {
  Cursor cursor;
  cursor.step = in.at("step").get<std::uint64_t>();
  cursor.epoch = in.at("epoch").get<std::uint64_t>();
  cursor.next_batch = in.at("next_batch").get<std::uint64_t>();
  cursor.samples = in.at("samples").get<std::uint64_t>();
  cursor.best_step = in.at("best_step").get<std::uint64_t>();
  cursor.epochs_without_improvement = in.at("epochs_without_improvement").get<int>();
  if (!in.at("best_value").is_null()) cursor.best_value = in.at("best_value").get<double>();
  return cursor;
}

Status WriteDense(const std::string& path, const std::vector<model::DenseModel::Tensor>& tensors) {
  std::vector<TensorInfo> infos;
  for (const auto& tensor : tensors) {
    infos.push_back({.name = tensor.name, .type = TensorType::kF32, .shape = tensor.shape});
  }
  GM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, std::move(infos)));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    GM_RETURN_IF_ERROR(writer->Append(i, std::span<const float>(tensors[i].values)));
  }
  return writer->Finish();
}

Result<std::vector<model::DenseModel::Tensor>> ReadDense(const std::string& path) {
  GM_ASSIGN_OR_RETURN(const auto reader, SafetensorsReader::Open(path));
  std::vector<model::DenseModel::Tensor> tensors;
  for (const TensorInfo& info : reader->tensors()) {
    model::DenseModel::Tensor tensor{.name = info.name, .shape = info.shape, .values = std::vector<float>(info.elements)};
    GM_RETURN_IF_ERROR(reader->Read(info, 0, std::span<float>(tensor.values)));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Result<json> ReadJson(const std::string& path) {
  GM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  json parsed = json::parse(text, nullptr, false);
  if (parsed.is_discarded()) return DataLoss(path + " is not valid JSON; the file is damaged");
  return parsed;
}

// The checksums of a checkpoint's files by their inodes: a hard link to one of them has the same bytes.
std::map<std::pair<dev_t, ino_t>, std::uint64_t> KnownChecksums(const std::string& dir) {
  std::map<std::pair<dev_t, ino_t>, std::uint64_t> known;
  const Result<json> manifest = ReadJson(dir + "/" + kManifest);
  if (!manifest.ok() || !CheckCheckpoint(dir, false).ok()) return known;
  try {
    for (const json& file : manifest->at("files")) {
      struct stat status {};
      const std::string path = dir + "/" + file.at("path").get<std::string>();
      if (::stat(path.c_str(), &status) != 0) continue;
      if (static_cast<std::uint64_t>(status.st_size) != file.at("bytes").get<std::uint64_t>()) continue;
      known[{status.st_dev, status.st_ino}] = file.at("xxh3").get<std::uint64_t>();
    }
  } catch (const json::exception&) {
    known.clear();  // a damaged one helps nobody
  }
  return known;
}

// Of every shard that wrote it? A run directory that each host has for itself would else make checkpoints of a part of the rows.
Status CheckShards(const std::string& dir, const std::vector<std::string>& files) {
  GM_ASSIGN_OR_RETURN(const ps::CheckpointTables tables, ps::ReadCheckpointTables(PsDir(dir)));
  for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
    const std::string part = "ps/" + ps::ShardDirName(shard, tables.num_shards);
    if (std::find(files.begin(), files.end(), part + "/CURRENT") != files.end()) continue;
    return DataLoss(dir + "/" + part + " is missing, the part of shard " + std::to_string(shard) +
                    ": the run directory must be on a disk that all hosts share");
  }
  return Ok();
}

// Of a manifest without it.
std::uint64_t OwnChecksum(const json& manifest) {
  const std::string text = manifest.dump();
  return Checksum(text);
}

// `previous`: a checkpoint that may share files with it; "" = none.
Status WriteManifest(const std::string& dir, const Cursor& cursor, const std::string& previous) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> files, ListTree(dir));
  GM_RETURN_IF_ERROR(CheckShards(dir, files));
  const auto known = previous.empty() ? std::map<std::pair<dev_t, ino_t>, std::uint64_t>() : KnownChecksums(previous);
  json list = json::array();
  for (const std::string& file : files) {
    if (file == kManifest) continue;
    const std::string path = dir + "/" + file;
    GM_ASSIGN_OR_RETURN(const std::uint64_t size, FileSize(path));
    struct stat status {};
    const auto shared = ::stat(path.c_str(), &status) == 0 ? known.find({status.st_dev, status.st_ino}) : known.end();
    std::uint64_t checksum = 0;
    if (shared != known.end()) {
      checksum = shared->second;
    } else {
      GM_ASSIGN_OR_RETURN(checksum, FileChecksum(path));
    }
    list.push_back({{"path", file}, {"bytes", size}, {"xxh3", checksum}});
  }
  json manifest = {
      {"format", kCheckpointFormat}, {"step", cursor.step}, {"cursor", CursorToJson(cursor)}, {"files", list}};
  manifest["xxh3"] = OwnChecksum(manifest);
  return WriteFileAtomic(dir + "/" + kManifest, manifest.dump(2) + "\n");
}

std::string DamagedMark(const std::string& dir) {
  const fs::path path = fs::path(dir).lexically_normal();
  const fs::path checkpoint = path.has_filename() ? path : path.parent_path();  // "step-000000120/"
  return (checkpoint.parent_path() / ("damaged-" + checkpoint.filename().string())).string();
}

std::string BestTarget(const std::string& checkpoints_dir) {
  std::error_code error;
  const fs::path target = fs::read_symlink(checkpoints_dir + "/best", error);
  return error ? std::string() : target.filename().string();
}

Status NotACheckpoint(const std::string& path) {
  return InvalidInput(path + " is neither a run nor a checkpoint: it has no " + kManifest +
                      " and no checkpoints/ with one; give the directory that `gatemill train` printed as run_dir");
}

}  // namespace

std::string CheckpointDirName(std::uint64_t step) {
  std::string digits = std::to_string(step);
  return kStepPrefix + std::string(digits.size() < 9 ? 9 - digits.size() : 0, '0') + digits;
}

std::string PsDir(const std::string& checkpoint_dir) { return checkpoint_dir + "/ps"; }

std::string UnfinishedDir(const std::string& checkpoints_dir, std::uint64_t step) {
  return checkpoints_dir + "/" + CheckpointDirName(step) + kUnfinished;
}

Status WriteWorkerFiles(const std::string& dir, const Checkpoint& checkpoint) {
  GM_RETURN_IF_ERROR(WriteDense(dir + "/" + kDense, checkpoint.dense));
  const json worker = {{"cursor", CursorToJson(checkpoint.cursor)},
                       {"columns", checkpoint.columns},
                       {"statistics", json::parse(data::StatisticsToJson(checkpoint.statistics), nullptr, false)}};
  GM_RETURN_IF_ERROR(WriteFileAtomic(dir + "/" + kWorker, worker.dump(2) + "\n"));
  return WriteFileAtomic(dir + "/" + kConfig, checkpoint.config_yaml);
}

Status CompleteCheckpoint(const std::string& checkpoints_dir, const Cursor& cursor) {
  const std::string dir = UnfinishedDir(checkpoints_dir, cursor.step);
  const std::vector<std::string> before = ListCheckpoints(checkpoints_dir);
  GM_RETURN_IF_ERROR(WriteManifest(dir, cursor, before.empty() ? "" : before.back()));
  GM_RETURN_IF_ERROR(SyncDir(PsDir(dir)));
  const std::string named = checkpoints_dir + "/" + CheckpointDirName(cursor.step);
  GM_RETURN_IF_ERROR(RenameOver(dir, named));
  GM_RETURN_IF_ERROR(RemoveDamagedMark(named));  // of the one before, which must not be without it
  return RemoveTree(dir);
}

Status RemoveUnfinished(const std::string& checkpoints_dir) {
  const auto names = ListDir(checkpoints_dir);
  if (!names.ok()) return Ok();  // there is none yet
  for (const std::string& name : *names) {
    const std::string dir = checkpoints_dir + "/" + name;
    if (!name.starts_with(kStepPrefix) || !name.ends_with(kUnfinished)) continue;
    GM_RETURN_IF_ERROR(RemoveTree(dir));
  }
  return Ok();
}

Status FinishInterrupted(const std::string& checkpoints_dir, const Cursor& cursor) {
  GM_RETURN_IF_ERROR(RemoveUnfinished(checkpoints_dir));
  const std::string best = CheckpointDirName(cursor.best_step);
  if (!cursor.best_value || BestTarget(checkpoints_dir) == best) return Ok();
  if (!FileExists(checkpoints_dir + "/" + best + "/" + kManifest)) return Ok();  // it could not be written
  return MarkBest(checkpoints_dir, cursor.best_step);
}

Status MarkBest(const std::string& checkpoints_dir, std::uint64_t step) {
  const std::string link = checkpoints_dir + "/best";
  const std::string temporary = link + ".tmp";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(CheckpointDirName(step), temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) return Internal("cannot link " + link + ": " + error.message());
  return Ok();
}

Status PruneCheckpoints(const std::string& checkpoints_dir, int keep, std::uint64_t newest) {
  std::vector<std::string> all = ListCheckpoints(checkpoints_dir);
  const std::string best = BestTarget(checkpoints_dir);
  std::erase_if(all, [&](const std::string& dir) { return fs::path(dir).filename() == best || StepOf(dir) > newest; });
  int kept = 0;
  for (auto dir = all.rbegin(); dir != all.rend(); ++dir) {
    if (kept < std::max(keep, 1)) {
      kept += FileExists(DamagedMark(*dir)) ? 0 : 1;
      continue;
    }
    // A half-removed one is no checkpoint, and RemoveUnfinished removes the rest.
    const std::string going = *dir + kUnfinished;
    GM_RETURN_IF_ERROR(RenameOver(*dir, going));
    GM_RETURN_IF_ERROR(RemoveTree(going));
    GM_RETURN_IF_ERROR(RemoveDamagedMark(*dir));
  }
  return Ok();
}

std::uint64_t StepOf(const std::string& checkpoint_dir) {
  return std::strtoull(checkpoint_dir.c_str() + checkpoint_dir.rfind('-') + 1, nullptr, 10);
}

// Several ranks may find it at once.
Result<bool> MarkDamaged(const std::string& dir, const std::string& why) {
  return WriteNewFile(DamagedMark(dir), why + "\n");
}

Status RemoveDamagedMark(const std::string& dir) { return RemoveTree(DamagedMark(dir)); }

std::vector<std::string> ListCheckpoints(const std::string& checkpoints_dir) {
  std::vector<std::string> found;
  const auto names = ListDir(checkpoints_dir);
  if (!names.ok()) return found;
  for (const std::string& name : *names) {
    const std::string dir = checkpoints_dir + "/" + name;
    if (name.starts_with(kStepPrefix) && !name.ends_with(kUnfinished) && FileExists(dir + "/" + kManifest)) found.push_back(dir);
  }
  std::sort(found.begin(), found.end());
  return found;
}

Result<std::string> ResolveCheckpoint(const std::string& path) {
  if (FileExists(path + "/" + kManifest)) {
    std::error_code error;
    const std::string target = fs::is_symlink(path, error) ? fs::canonical(path, error).string() : path;  // best
    return error ? path : target;
  }
  const std::string checkpoints_dir = path + "/checkpoints";
  const std::string best = BestTarget(checkpoints_dir);
  if (!best.empty() && FileExists(checkpoints_dir + "/" + best + "/" + kManifest)) return checkpoints_dir + "/" + best;
  const std::vector<std::string> all = ListCheckpoints(checkpoints_dir);
  if (all.empty()) return NotACheckpoint(path);
  return all.back();
}

Result<Checkpoint> LoadCheckpoint(const std::string& dir) {
  GM_RETURN_IF_ERROR(CheckCheckpoint(dir, false));
  Checkpoint checkpoint;
  GM_ASSIGN_OR_RETURN(const json worker, ReadJson(dir + "/" + kWorker));
  try {
    checkpoint.cursor = CursorFromJson(worker.at("cursor"));
    checkpoint.columns = worker.at("columns").get<std::vector<std::string>>();
    GM_ASSIGN_OR_RETURN(checkpoint.statistics, data::StatisticsFromJson(worker.at("statistics").dump()));
  } catch (const json::exception& error) {
    return DataLoss(dir + "/" + kWorker + " is damaged: " + error.what());
  }
  GM_ASSIGN_OR_RETURN(checkpoint.config_yaml, ReadFile(dir + "/" + kConfig));
  GM_ASSIGN_OR_RETURN(checkpoint.dense, ReadDense(dir + "/" + kDense));
  return checkpoint;
}

Status CheckCheckpoint(const std::string& dir, bool full) {
  if (!FileExists(dir + "/" + kManifest)) return NotACheckpoint(dir);
  if (!full && FileExists(DamagedMark(dir))) {
    const Result<std::string> mark = ReadFile(DamagedMark(dir));
    const std::string why = mark.ok() ? *mark : mark.status().message();
    return DataLoss("checkpoint " + dir + " is marked as damaged: " + why.substr(0, why.find('\n')) +
                    "; name another one beside it, or see with `gatemill check --full`, which reads all of it and takes the mark away "
                    "when everything is whole");
  }
  GM_ASSIGN_OR_RETURN(json manifest, ReadJson(dir + "/" + kManifest));
  try {
    if (manifest.contains("xxh3")) {  // older ones have none
      const auto checksum = manifest.at("xxh3").get<std::uint64_t>();
      manifest.erase("xxh3");
      if (OwnChecksum(manifest) != checksum) {
        return DataLoss("checkpoint " + dir + " is damaged: the checksum of " + dir + "/" + kManifest + " is wrong");
      }
    }
    const int format = manifest.at("format").get<int>();
    if (format != kCheckpointFormat) {
      return InvalidInput(dir + " has checkpoint format " + std::to_string(format) + "; this gatemill reads format " +
                          std::to_string(kCheckpointFormat));
    }
    std::vector<std::string> files;
    for (const json& file : manifest.at("files")) {
      files.push_back(file.at("path").get<std::string>());
      const std::string path = dir + "/" + files.back();
      const auto size = FileSize(path);
      if (size.status().code() == Code::kNotFound) return DataLoss("checkpoint " + dir + " is damaged: " + path + " is missing");
      if (!size.ok()) return size.status();
      if (*size != file.at("bytes").get<std::uint64_t>()) {
        return DataLoss("checkpoint " + dir + " is damaged: " + path + " has " + std::to_string(*size) + " bytes, not " +
                        std::to_string(file.at("bytes").get<std::uint64_t>()));
      }
      // They are large, and the servers check their blocks when they read them.
      if (!full && file.at("path").get<std::string>().ends_with(".sst")) continue;
      GM_ASSIGN_OR_RETURN(const std::uint64_t checksum, FileChecksum(path));
      if (checksum != file.at("xxh3").get<std::uint64_t>()) {
        return DataLoss("checkpoint " + dir + " is damaged: the checksum of " + path + " is wrong");
      }
    }
    return CheckShards(dir, files);
  } catch (const json::exception& error) {
    return DataLoss(dir + "/" + kManifest + " is damaged: " + error.what());
  }
}

}  // namespace gatemill::train
