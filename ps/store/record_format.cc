#include "ps/store/record_format.h"

#include <bit>
#include <cstring>

#include "common/keys.h"

namespace gatemill::ps {
namespace {

static_assert(std::endian::native == std::endian::little, "records are copied as they lie in memory");
static_assert(sizeof(RowHeader) == 8);

constexpr char kFormat = 1;
constexpr std::size_t kValuesAt = 1 + sizeof(RowHeader);

template <typename T>
void PutBigEndian(char* out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<char>(value >> (8 * (sizeof(T) - 1 - i)));
}

template <typename T>
T GetBigEndian(const char* in) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | static_cast<unsigned char>(in[i]));
  return value;
}

RecordKey Encode(std::uint32_t table, std::uint32_t vshard, std::uint64_t key) {
  RecordKey bytes;
  PutBigEndian<std::uint32_t>(bytes.data(), table);
  PutBigEndian<std::uint16_t>(bytes.data() + 4, static_cast<std::uint16_t>(vshard));
  PutBigEndian<std::uint64_t>(bytes.data() + 6, key);
  return bytes;
}

}  // namespace

RecordKey EncodeRecordKey(StoreKey key) { return Encode(key.table, VshardOf(key.key), key.key); }

RecordKey FirstRecordKey(std::uint32_t table, std::uint32_t vshard) { return Encode(table, vshard, 0); }

bool DecodeRecordKey(std::string_view bytes, StoreKey* key) {
  if (bytes.size() != kRecordKeyBytes) return false;
  key->table = GetBigEndian<std::uint32_t>(bytes.data());
  key->key = GetBigEndian<std::uint64_t>(bytes.data() + 6);
  return GetBigEndian<std::uint16_t>(bytes.data() + 4) == VshardOf(key->key);
}

void EncodeRecord(std::span<const float> values, const RowHeader& header, std::string* bytes) {
  bytes->resize(kValuesAt + values.size_bytes());
  (*bytes)[0] = kFormat;
  std::memcpy(bytes->data() + 1, &header, sizeof(header));
  if (!values.empty()) std::memcpy(bytes->data() + kValuesAt, values.data(), values.size_bytes());
}

bool DecodeRecord(std::string_view bytes, std::vector<float>* values, RowHeader* header) {
  if (bytes.size() < kValuesAt || bytes[0] != kFormat || (bytes.size() - kValuesAt) % sizeof(float) != 0) return false;
  std::memcpy(header, bytes.data() + 1, sizeof(*header));
  values->resize((bytes.size() - kValuesAt) / sizeof(float));
  if (!values->empty()) std::memcpy(values->data(), bytes.data() + kValuesAt, bytes.size() - kValuesAt);
  return true;
}

}  // namespace gatemill::ps
