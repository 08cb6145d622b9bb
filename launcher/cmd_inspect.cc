// gatemill inspect RUN|CHECKPOINT summary|row: what the tables hold.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/keys.h"
#include "launcher/command.h"
#include "launcher/output.h"
#include "launcher/tables_view.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

struct InspectArgs {
  std::string path;
  std::string feature;
  std::string value;
  bool json = false;
};

std::string Number(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

double Norm(std::span<const float> values) {
  double squares = 0.0;
  for (const float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(squares);
}

struct TableSummary {
  std::uint64_t rows = 0;
  std::uint64_t updates = 0;
  double norm_sum = 0.0;
  double norm_max = 0.0;
};

Result<TableSummary> Summarize(ps::CheckpointReader* reader, std::uint32_t table, int dim) {
  TableSummary summary;
  GM_RETURN_IF_ERROR(reader->Scan(table, 0, kNumVshards,
                                  [&](std::uint64_t, std::span<const float> values, const ps::RowHeader& header) {
                                    const double norm = Norm(values.first(static_cast<std::size_t>(dim)));
                                    ++summary.rows;
                                    summary.updates += header.updates;
                                    summary.norm_sum += norm;
                                    summary.norm_max = std::max(summary.norm_max, norm);
                                    return Ok();
                                  }));
  return summary;
}

Status RunSummary(const InspectArgs& args) {
  GM_ASSIGN_OR_RETURN(const TablesView view, OpenTables(args.path));
  json tables = json::array();
  std::vector<std::vector<std::string>> lines{{"table", "rows", "dim", "optimizer", "updates/row", "mean norm", "max norm"}};
  const auto& specs = view.rows->tables().specs;
  std::string waiting;
  for (std::uint32_t t = 0; t < specs.size(); ++t) {
    if (ps::HoldsSightings(specs[t])) continue;
    GM_ASSIGN_OR_RETURN(const TableSummary summary, Summarize(view.rows.get(), t, specs[t].dim));
    const double rows = summary.rows > 0 ? static_cast<double>(summary.rows) : 1.0;
    const double updates = static_cast<double>(summary.updates) / rows;
    const double norm = summary.norm_sum / rows;
    tables.push_back({{"table", specs[t].name}, {"rows", summary.rows}, {"dim", specs[t].dim},
                      {"optimizer", specs[t].optimizer.type}, {"updates_per_row", updates}, {"mean_norm", norm},
                      {"max_norm", summary.norm_max}});
    lines.push_back({specs[t].name, std::to_string(summary.rows), std::to_string(specs[t].dim), specs[t].optimizer.type,
                     Number("%.1f", updates), Number("%.4f", norm), Number("%.4f", summary.norm_max)});
    if (const auto seen = ps::FindSightings(specs, t); seen.has_value()) {
      GM_ASSIGN_OR_RETURN(const std::uint64_t values, view.rows->CountRows(*seen));
      tables.back()["waiting_values"] = values;
      waiting += std::to_string(values) + " values wait for a row of " + specs[t].name + " (admission)\n";
    }
  }
  std::fprintf(ReportStream(args.json), "%s, step %llu\n%s%s", view.dir.c_str(),
               static_cast<unsigned long long>(view.checkpoint.cursor.step), FormatTable(lines).c_str(), waiting.c_str());
  if (args.json) {
    PrintJsonLine(json{{"checkpoint", view.dir}, {"step", view.checkpoint.cursor.step}, {"tables", tables}});
  }
  return Ok();
}

// In how many steps a value without a row was seen; none where rows come with the first use.
Result<std::optional<std::uint32_t>> Sightings(const TablesView& view, const ValueKey& where) {
  const std::optional<std::uint32_t> companion = ps::FindSightings(view.rows->tables().specs, where.table);
  if (!companion.has_value()) return std::optional<std::uint32_t>();
  std::vector<float> values;
  ps::RowHeader header;
  GM_ASSIGN_OR_RETURN(const bool found, view.rows->Get(*companion, where.key, &values, &header));
  return std::optional<std::uint32_t>(found ? header.updates : 0);
}

Status RunRow(const InspectArgs& args) {
  GM_ASSIGN_OR_RETURN(const TablesView view, OpenTables(args.path));
  GM_ASSIGN_OR_RETURN(const ValueKey where, FindValue(view, args.feature, args.value));
  std::vector<float> values;
  ps::RowHeader header;
  GM_ASSIGN_OR_RETURN(const bool found, view.rows->Get(where.table, where.key, &values, &header));
  json out = {{"feature", args.feature}, {"value", args.value}, {"table", where.table_name},
              {"key", where.key},        {"found", found}};
  if (found) {
    const auto dim = static_cast<std::ptrdiff_t>(view.schema.tables[where.table].dim);
    const std::vector<float> embedding(values.begin(), values.begin() + dim);
    const std::vector<float> state(values.begin() + dim, values.end());
    out.update({{"embedding", embedding}, {"optimizer_state", state}, {"norm", Norm(embedding)},
                {"updates", header.updates}, {"last_step", header.last_step}});
    std::string text;
    for (const float value : embedding) text += Number(" %.6g", static_cast<double>(value));
    std::fprintf(ReportStream(args.json), "%s = %s   table %s, key %llu\nupdated %u times, last at step %u, norm %.4f\nembedding%s\n",
                 args.feature.c_str(), args.value.c_str(), where.table_name.c_str(),
                 static_cast<unsigned long long>(where.key), header.updates, header.last_step, Norm(embedding),
                 text.c_str());
  } else {
    GM_ASSIGN_OR_RETURN(const std::optional<std::uint32_t> seen, Sightings(view, where));
    const auto& spec = view.rows->tables().specs[where.table];
    std::string why = "no training sample had it";
    if (seen.has_value()) {
      out["seen_steps"] = *seen;
      why = "seen in " + std::to_string(*seen) + " steps, " + std::to_string(spec.admission.min_count) + " are needed";
    }
    if (spec.eviction != EvictionConfig()) why += ", or its row went (tables." + spec.name + ".eviction)";
    std::fprintf(ReportStream(args.json), "%s = %s has no row in table %s (key %llu): %s\n", args.feature.c_str(),
                 args.value.c_str(), where.table_name.c_str(), static_cast<unsigned long long>(where.key), why.c_str());
  }
  if (args.json) PrintJsonLine(out);
  return Ok();
}

}  // namespace

RunCommand AddInspect(CLI::App* app) {
  app->require_subcommand(1);
  auto args = std::make_shared<InspectArgs>();
  app->add_option("path", args->path, "a run directory (its best checkpoint) or a checkpoint")->required();
  CLI::App* summary = app->add_subcommand("summary", "every table: rows, dimension, updates, norms");
  summary->add_flag("--json", args->json, "one JSON object, last on standard output");
  CLI::App* row = app->add_subcommand("row", "one row, by the value a person knows");
  row->add_option("--feature", args->feature, "name of a sparse feature")->required();
  row->add_option("--value", args->value, "its value as in the data")->required();
  row->add_flag("--json", args->json, "one JSON object, last on standard output");
  app->footer("Name the run first: gatemill inspect RUN summary, gatemill inspect RUN row --feature NAME --value VALUE;\n"
              "gatemill inspect RUN row --help says more.");
  return [args, row] { return row->parsed() ? RunRow(*args) : RunSummary(*args); };
}

}  // namespace gatemill::launcher
