// HDF5 tells where the chunks lie; the data are then read from a memory map, since training asks for samples
// in random order and a chunk read through the library is copied and summed anew each time. The checksum at
// the end of each chunk is verified once, at its first touch.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "chunked_array.hpp"
#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
using hdf5::Handle;

struct ShardReader::Impl {
  explicit Impl(const fs::path& file_path) : path(file_path), map(file_path) {}

  fs::path path;
  MappedFile map;
  ShardOrigin origin;
  ShardCounts counts;
  ChunkedArray tokens;
  ChunkedArray offsets;
  ChunkedArray loss_start;
  ChunkedArray row;
  ChunkedArray hash;

  uint64_t number_attribute(hid_t file, const std::string& name) {
    uint64_t value = 0;
    Handle set(H5Aopen(file, name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!set.valid() || H5Aread(set.get(), H5T_NATIVE_UINT64, &value) < 0)
      damaged_shard(path, fmt::format("no attribute {}", name));
    return value;
  }
  uint64_t dropped(hid_t file, const std::string& name) {
    // shards of before this reason lack it
    if (name == "dropped_too_short" && H5Aexists(file, name.c_str()) == 0) return 0;
    return number_attribute(file, name);
  }
  std::string text_attribute(hid_t file, const char* name) {
    Handle set(H5Aopen(file, name, H5P_DEFAULT), H5Aclose);
    Handle type(set.valid() ? H5Aget_type(set.get()) : -1, H5Tclose);
    if (!type.valid() || H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0)
      damaged_shard(path, fmt::format("no attribute {}", name));
    std::string value(H5Tget_size(type.get()), '\0');
    if (H5Aread(set.get(), type.get(), value.data()) < 0) damaged_shard(path, hdf5::last_error());
    while (!value.empty() && value.back() == '\0') value.pop_back();
    return value;
  }
};

ShardReader::ShardReader(const fs::path& path) : impl_(std::make_unique<Impl>(path)) {
  hdf5::initialise();
  Impl& s = *impl_;
  Handle file = hdf5::open_for_reading(path);
  if (!file.valid()) damaged_shard(path, hdf5::last_error());
  if (H5Aexists(file.get(), "format") <= 0 || s.text_attribute(file.get(), "format") != "llmft-shard")
    throw ForeignShard(fmt::format(
        "{}: not a shard (an HDF5 file of another kind, or its header is damaged); move it away or delete it",
        path.string()));
  uint64_t version = s.number_attribute(file.get(), "format_version");
  if (version != static_cast<uint64_t>(kShardFormatVersion))
    throw ForeignShard(fmt::format(
        "{}: shard format version {}, this program reads {}; run 'llmft preprocess --force' again",
        path.string(), version, kShardFormatVersion));
  s.origin.tokenizer_hash = s.text_attribute(file.get(), "tokenizer_hash");
  s.origin.settings = s.text_attribute(file.get(), "settings");
  s.origin.fingerprint = s.text_attribute(file.get(), "fingerprint");
  s.origin.split = s.text_attribute(file.get(), "split");
  s.origin.index = s.number_attribute(file.get(), "shard_index");
  s.origin.count = s.number_attribute(file.get(), "shard_count");
  s.origin.first_row = s.number_attribute(file.get(), "first_row");
  s.origin.rows = s.number_attribute(file.get(), "source_rows");
  for (size_t i = 0; i < s.counts.drops.size(); ++i)
    s.counts.drops[i] = s.dropped(file.get(), std::string("dropped_") + kDropReasonNames[i]);
  s.counts.other_split = s.number_attribute(file.get(), "other_split");
  s.counts.truncated = s.number_attribute(file.get(), "truncated");
  s.tokens.open(path, s.map, file.get(), "tokens", 4);
  s.offsets.open(path, s.map, file.get(), "offsets", 8);
  s.loss_start.open(path, s.map, file.get(), "loss_start", 4);
  s.row.open(path, s.map, file.get(), "row", 8);
  s.hash.open(path, s.map, file.get(), "hash", 8);
  if (s.offsets.size() != s.loss_start.size() + 1 || s.row.size() != s.loss_start.size() ||
      s.hash.size() != s.loss_start.size())
    damaged_shard(path, "datasets of different lengths");
}

ShardReader::~ShardReader() = default;

const fs::path& ShardReader::path() const {
  return impl_->path;
}
const ShardOrigin& ShardReader::origin() const {
  return impl_->origin;
}
const ShardCounts& ShardReader::counts() const {
  return impl_->counts;
}
uint64_t ShardReader::samples() const {
  return impl_->loss_start.size();
}
uint64_t ShardReader::tokens() const {
  return impl_->tokens.size();
}

std::vector<uint64_t> ShardReader::offsets() const {
  std::vector<uint64_t> out(impl_->offsets.size());
  impl_->offsets.read(0, out.size(), out.data());
  if (out.front() != 0 || out.back() != tokens() || !std::is_sorted(out.begin(), out.end()))
    damaged_shard(impl_->path, "/offsets do not fit /tokens");
  return out;
}

std::vector<uint32_t> ShardReader::loss_starts() const {
  std::vector<uint32_t> out(samples());
  impl_->loss_start.read(0, out.size(), out.data());
  return out;
}

uint64_t ShardReader::row(uint64_t sample) const {
  uint64_t out = 0;
  impl_->row.read(sample, 1, &out);
  return out;
}

uint64_t ShardReader::offset(uint64_t sample) const {
  uint64_t out = 0;
  impl_->offsets.read(sample, 1, &out);
  return out;
}
uint32_t ShardReader::loss_start(uint64_t sample) const {
  uint32_t out = 0;
  impl_->loss_start.read(sample, 1, &out);
  return out;
}

std::vector<uint64_t> ShardReader::rows() const {
  std::vector<uint64_t> out(samples());
  impl_->row.read(0, out.size(), out.data());
  return out;
}
std::vector<uint64_t> ShardReader::hashes() const {
  std::vector<uint64_t> out(samples());
  impl_->hash.read(0, out.size(), out.data());
  return out;
}

void ShardReader::append_tokens(uint64_t begin, uint64_t count, std::vector<int32_t>& out) const {
  size_t at = out.size();
  out.resize(at + count);
  impl_->tokens.read(begin, count, out.data() + at);
}

void ShardReader::verify() const {
  std::vector<uint64_t> offset = offsets();
  std::vector<uint32_t> start = loss_starts();
  for (size_t i = 0; i < start.size(); ++i)
    if (start[i] < 1 || start[i] >= offset[i + 1] - offset[i])
      damaged_shard(impl_->path, fmt::format("/loss_start of sample {} is outside the sample", i));
  impl_->row.verify_all();
  impl_->tokens.verify_all();
  std::vector<uint64_t> hash = hashes();
  std::vector<uint32_t> tokens;
  for (size_t i = 0; i < start.size(); ++i) {
    tokens.resize(offset[i + 1] - offset[i]);
    impl_->tokens.read(offset[i], tokens.size(), tokens.data());
    if (sample_hash(tokens) != hash[i])
      damaged_shard(impl_->path, fmt::format("/hash of sample {} is not that of its tokens", i));
  }
}

SampleKeys read_keys(const fs::path& path) {
  hdf5::initialise();
  MappedFile map(path);
  Handle file = hdf5::open_for_reading(path);
  if (!file.valid()) damaged_shard(path, hdf5::last_error());
  SampleKeys keys;
  for (auto [name, values] : {std::pair{"hash", &keys.hashes}, {"row", &keys.rows}}) {
    ChunkedArray array;
    array.open(path, map, file.get(), name, 8);
    values->resize(array.size());
    array.read(0, array.size(), values->data());
  }
  if (keys.hashes.size() != keys.rows.size()) damaged_shard(path, "datasets of different lengths");
  return keys;
}

}  // namespace llmft
