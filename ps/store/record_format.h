// How a row lies in RocksDB. Key: (table number, vshard, key), big-endian, 4 + 2 + 8 bytes, so that bytes sort as the
// tuple does. Value: a format byte, then the header and the floats, little-endian.
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ps/store/row_store.h"
#include "ps/table/table.h"

namespace gatemill::ps {

inline constexpr std::size_t kRecordKeyBytes = 14;
using RecordKey = std::array<char, kRecordKeyBytes>;

RecordKey EncodeRecordKey(StoreKey key);
// The smallest record key of a table's vshard; vshard may be kNumVshards: the end of the table.
RecordKey FirstRecordKey(std::uint32_t table, std::uint32_t vshard);
// False when `bytes` is no record key.
bool DecodeRecordKey(std::string_view bytes, StoreKey* key);

void EncodeRecord(std::span<const float> values, const RowHeader& header, std::string* bytes);
// False when `bytes` is no record of a known format.
bool DecodeRecord(std::string_view bytes, std::vector<float>* values, RowHeader* header);

}  // namespace gatemill::ps
