#include "launcher/tables_view.h"

#include <utility>

#include "worker/data/transform.h"

namespace gatemill::launcher {

Result<TablesView> OpenTables(const std::string& path) {
  TablesView view;
  GM_ASSIGN_OR_RETURN(view.dir, train::ResolveCheckpoint(path));
  GM_ASSIGN_OR_RETURN(view.checkpoint, train::LoadCheckpoint(view.dir));
  GM_ASSIGN_OR_RETURN(view.config, ParseConfig(view.checkpoint.config_yaml, view.dir + "/config.yaml", {}));
  GM_ASSIGN_OR_RETURN(view.schema, data::ResolveSchema(view.config, view.checkpoint.columns));
  GM_ASSIGN_OR_RETURN(view.rows, ps::CheckpointReader::Open(train::PsDir(view.dir)));
  return view;
}

Result<ValueKey> FindValue(const TablesView& view, const std::string& feature, const std::string& value) {
  std::string known;
  for (std::size_t f = 0; f < view.schema.sparse.size(); ++f) {
    const data::SparseFeature& sparse = view.schema.sparse[f];
    known += (known.empty() ? "" : ", ") + sparse.name;
    if (sparse.name != feature) continue;
    GM_ASSIGN_OR_RETURN(const std::uint64_t key,
                        data::KeyOfValue(view.schema, f, view.config.data, view.checkpoint.statistics, value));
    return ValueKey{.table = sparse.table, .table_name = view.schema.tables[sparse.table].name, .key = key};
  }
  return InvalidInput("no sparse feature is called " + feature + "; there are: " + known);
}

}  // namespace gatemill::launcher
