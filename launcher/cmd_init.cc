// gatemill init FILE --labels a,b: drafts a configuration from a data file, with comments that say why.

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/file.h"
#include "common/suggest.h"
#include "common/yaml_tree.h"
#include "launcher/command.h"
#include "worker/data/profile.h"

namespace gatemill::launcher {
namespace {

constexpr std::uint64_t kSmallVocabulary = 16;    // values of a column: embeddings of 4 numbers
constexpr std::uint64_t kMediumVocabulary = 500;  // of 8; above it 16, and rows for unseen values
constexpr int kDraftOovBuckets = 64;
constexpr double kWideRange = 100.0;  // numbers that span more are drafted with log1p
constexpr std::array<const char*, 7> kMissingTexts = {"?", "NA", "NaN", "nan", "null", "NULL", "\\N"};

struct InitArgs {
  std::string file;
  std::vector<std::string> labels;
  std::vector<std::string> column_names;
  std::string output;
};

std::string Yaml(const std::string& text) { return WriteYamlLine(YamlNode::Text(text)); }

std::string YamlList(const std::vector<std::string>& texts) {
  YamlNode list = YamlNode::List();
  for (const std::string& text : texts) list.items.push_back(YamlNode::Text(text));
  return WriteYamlLine(list);
}

// A list behind `head`, broken into lines.
std::string WrappedList(const std::string& head, const std::vector<std::string>& texts) {
  constexpr std::size_t kWidth = 100;
  std::string out = head + "[";
  std::size_t line = out.size();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string item = Yaml(texts[i]) + (i + 1 < texts.size() ? "," : "]");
    if (i > 0 && line + item.size() + 1 > kWidth) {
      out += "\n      ";
      line = 6;
    } else if (i > 0) {
      out += " ";
      ++line;
    }
    out += item;
    line += item.size();
  }
  return out + "\n";
}

std::string Number(double value, const char* format) {
  char text[48];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

class Draft {
 public:
  explicit Draft(const InitArgs& args) : args_(args) {}

  Result<std::string> Write() {
    data_.train.files = {args_.file};
    data_.header = args_.column_names.empty();
    data_.column_names = args_.column_names;
    GM_RETURN_IF_ERROR(ReadProfile());
    GM_RETURN_IF_ERROR(CheckLabels());
    GM_RETURN_IF_ERROR(FindLeaks());
    for (const data::ColumnProfile& column : profile_.columns) Place(column);
    if (groups_.empty()) return InvalidInput(args_.file + ": no column is left that could be a feature");
    const std::string yaml = Header() + Features() + Rest();
    const Result<Config> config = ParseConfig(yaml, "the draft", {});
    if (!config.ok()) return Internal("the draft is no legal configuration: " + config.status().message());
    return yaml;
  }

 private:
  // Reads a sample, twice when there are texts that mean "missing".
  Status ReadProfile() {
    GM_ASSIGN_OR_RETURN(profile_, data::ProfileData(data_, data_.train, data::kProfileRows));
    std::set<std::string> seen;
    for (const data::ColumnProfile& column : profile_.columns)
      seen.insert(column.examples.begin(), column.examples.end());
    for (const char* text : kMissingTexts) {
      if (seen.contains(text)) data_.missing.emplace_back(text);
    }
    if (data_.missing.size() == 1) return Ok();
    GM_ASSIGN_OR_RETURN(profile_, data::ProfileData(data_, data_.train, data::kProfileRows));
    return Ok();
  }

  [[nodiscard]] const data::ColumnProfile* Find(const std::string& name) const {
    for (const data::ColumnProfile& column : profile_.columns) {
      if (column.name == name) return &column;
    }
    return nullptr;
  }
  [[nodiscard]] bool IsLabel(const std::string& name) const {
    return std::find(args_.labels.begin(), args_.labels.end(), name) != args_.labels.end();
  }

  Status CheckLabels() const {
    std::vector<std::string> names;
    for (const data::ColumnProfile& column : profile_.columns) names.push_back(column.name);
    std::string mistakes;
    std::set<std::string> seen;
    for (const std::string& label : args_.labels) {
      const data::ColumnProfile* column = Find(label);
      std::string wrong;
      if (column == nullptr) {
        const std::string nearest = Nearest(label, names);
        wrong = "there is no column " + label + (nearest.empty() ? "" : "; did you mean " + nearest + "?");
      } else if (!column->numeric) {
        const std::string example = column->examples.empty() ? "nothing" : "\"" + column->examples[0] + "\"";
        wrong.append("label ").append(label).append(" must be a number, found ").append(example);
        wrong += "; write 0 and 1 into the file";
      } else if (!seen.insert(label).second) {
        wrong = "label " + label + " is given twice; give it once";
      }
      if (!wrong.empty()) mistakes += (mistakes.empty() ? "" : "\n") + args_.file + ": " + wrong;
    }
    return mistakes.empty() ? Ok() : InvalidInput(mistakes);
  }

  Status FindLeaks() {
    std::vector<std::string> columns;
    for (const data::ColumnProfile& column : profile_.columns) {
      if (!IsLabel(column.name)) columns.push_back(column.name);
    }
    GM_ASSIGN_OR_RETURN(const auto scores,
                        data::ScoreColumns(data_, data_.train, args_.labels, columns, data::kProfileRows));
    for (const data::ColumnScore& score : scores) {
      if (score.leaks) leaks_.emplace(score.column, score);
    }
    return Ok();
  }

  void LeaveOut(const std::string& column, const std::string& why) { left_out_ += "  # " + column + ": " + why + "\n"; }

  // Decides what a column becomes.
  void Place(const data::ColumnProfile& column) {
    const auto leak = leaks_.find(column.name);
    if (IsLabel(column.name)) return;
    if (column.name.empty()) {
      LeaveOut("(a column without a name)", "give it one in the file's first line to use it");
    } else if (leak != leaks_.end()) {
      LeaveOut(column.name, "predicts " + leak->second.label + " almost alone (AUC " +
                                Number(leak->second.auc, "%.3f") + " in a sample); known only after the label?");
    } else if (column.kind == data::ColumnKind::kConstant) {
      LeaveOut(column.name, "has one value in a sample");
    } else if (column.kind == data::ColumnKind::kUnique && !column.name.ends_with("id")) {
      LeaveOut(column.name, "hardly ever repeats; the name of a row");
    } else if (column.kind == data::ColumnKind::kNumber) {
      groups_[DenseEntry(column)].push_back(column.name);
    } else {
      groups_[SparseEntry(column)].push_back(column.name);
    }
  }

  // An entry is what follows its columns; columns with the same share it. Dense ones sort first.
  static std::string DenseEntry(const data::ColumnProfile& column) {
    if (column.min < 0.0) return "dense\n    transform: zscore\n";
    const bool is_wide = column.max - column.min > kWideRange;
    return is_wide ? "dense\n    transform: [log1p, minmax]\n" : "dense\n    transform: minmax\n";
  }

  static std::string SparseEntry(const data::ColumnProfile& column) {
    const bool is_small = column.distinct <= kSmallVocabulary;
    const bool is_large = column.distinct > kMediumVocabulary || column.kind == data::ColumnKind::kUnique;
    std::string entry = "sparse\n";
    if (!column.separator.empty()) entry += "    separator: " + Yaml(column.separator) + "\n    pooling: mean\n";
    entry += "    embedding_dim: " + std::string(is_small ? "4" : is_large ? "16" : "8") + "\n";
    if (is_large)
      entry += "    oov_buckets: " + std::to_string(kDraftOovBuckets) + "    # rows that unseen values share\n";
    return entry;
  }

  [[nodiscard]] std::string Header() const {
    std::string yaml = "# Drafted by `gatemill init` from the first " + std::to_string(profile_.rows) + " rows of " +
                       args_.file +
                       ".\n# Look it through, above all for columns that are known only after the labels; then: "
                       "gatemill check FILE --data; gatemill train FILE\n";
    yaml += "data:\n  train: " + Yaml(args_.file) + "\n";
    if (!data_.header) yaml += "  header: false\n" + WrappedList("  column_names: ", data_.column_names);
    yaml += "  missing: " + YamlList(data_.missing) + "\n";
    yaml +=
        "  split: {ratio: 0.9, by: hash}    # a tenth of the rows validates; for data in time order `split: 0.9`, or\n"
        "                                   # a `where:` on the date\n";
    return yaml;
  }

  [[nodiscard]] std::string Features() const {
    std::string yaml = "features:\n";
    for (const auto& [entry, columns] : groups_) {
      const std::size_t line = entry.find('\n');
      yaml +=
          "  - type: " + entry.substr(0, line) + "\n" + WrappedList("    columns: ", columns) + entry.substr(line + 1);
    }
    if (!left_out_.empty()) yaml += "  # Left out:\n" + left_out_;
    return yaml;
  }

  [[nodiscard]] std::string Rest() const {
    bool has_bce = false;
    std::string tasks;
    for (std::size_t i = 0; i < args_.labels.size(); ++i) {
      const data::ColumnProfile& column = *Find(args_.labels[i]);
      const bool is_bce = column.min >= 0.0 && column.max <= 1.0 && column.distinct <= 2;
      has_bce = has_bce || is_bce;
      tasks += "  " + TaskName(i) + ": {label_name: " + Yaml(args_.labels[i]) + ", loss: " + (is_bce ? "bce" : "mse") +
               "}\n";
    }
    return "model:\n  type: " + std::string(args_.labels.size() == 1 ? "single" : "mmoe") +
           "    # single | shared_bottom | omoe | mmoe | ple | esmm | aitm\n  num_expert: 8\n"
           "  expert_mlp: {hidden_units: [64, 32], dropout_ratio: 0.1}\n  tower_mlp: {hidden_units: [16]}\ntasks:\n" +
           tasks +
           "train:\n  seed: 1\n  num_epochs: 10\n  global_batch_size: 1024    # summed over workers\n"
           "  dense_optimizer: {type: adam, lr: 0.001}\n  sparse_optimizer: {type: rowwise_adagrad, lr: 0.02}\n"
           "  early_stopping: {monitor: " +
           (has_bce ? "mean(auc)" : "mean(rmse)") + ", patience: 2}\n";
  }

  // A label's name made of what a task's name may have.
  [[nodiscard]] std::string TaskName(std::size_t number) const {
    std::string name = args_.labels[number];
    for (char& c : name) {
      const bool is_legal =
          (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
      if (!is_legal) c = '_';
    }
    if (name != args_.labels[number]) name += "_" + std::to_string(number + 1);
    return name;
  }

  const InitArgs& args_;
  DataConfig data_;
  data::DataProfile profile_;
  std::map<std::string, data::ColumnScore> leaks_;          // by column, of its most leaking label
  std::map<std::string, std::vector<std::string>> groups_;  // entry -> columns
  std::string left_out_;
};

Status RunInit(const InitArgs& args) {
  if (!args.output.empty() && FileExists(args.output)) {
    return InvalidInput(args.output + " exists already; give --output another name or move it away");
  }
  if (!args.output.empty()) GM_RETURN_IF_ERROR(CheckOutputFile(args.output));
  GM_ASSIGN_OR_RETURN(const std::string yaml, Draft(args).Write());
  if (args.output.empty()) {
    std::fputs(yaml.c_str(), stdout);
    return Ok();
  }
  GM_RETURN_IF_ERROR(WriteFileAtomic(args.output, yaml));
  std::fprintf(stderr, "%s written; next: gatemill check %s --data\n", args.output.c_str(), args.output.c_str());
  return Ok();
}

}  // namespace

RunCommand AddInit(CLI::App* app) {
  auto args = std::make_shared<InitArgs>();
  app->add_option("file", args->file, "a data file: CSV or TSV, plain or .gz")->required();
  app->add_option("--labels", args->labels, "label columns, separated by commas")->required()->delimiter(',');
  app->add_option("--column-names", args->column_names, "names of the columns of a file without a header line")
      ->delimiter(',');
  app->add_option("--output", args->output, "FILE.yaml, which must not exist; by default standard output");
  return [args] { return RunInit(*args); };
}

}  // namespace gatemill::launcher
