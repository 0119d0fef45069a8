// HDF5 tells where the chunks lie; the data are then read from a memory map, since training asks for samples
// in random order and a chunk read through the library is copied and summed anew each time. The checksum at
// the end of each chunk is verified once, at its first touch.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
using hdf5::Handle;

namespace {

[[noreturn]] void damaged(const fs::path& path, const std::string& reason) {
  user_error("{}: not a whole shard ({}); delete it and run 'llmft preprocess' again with the same settings",
             path.string(), reason);
}

// The sum of HDF5's Fletcher32 filter (H5_checksum_fletcher32): 16-bit big-endian words.
uint32_t fletcher32(const std::byte* bytes, size_t size) {
  uint32_t sum1 = 0;
  uint32_t sum2 = 0;
  auto fold = [](uint32_t sum) { return (sum & 0xffff) + (sum >> 16); };
  for (size_t words = size / 2; words > 0;) {
    size_t run = std::min<size_t>(words, 360);  // as many as cannot overflow 32 bits
    words -= run;
    for (; run > 0; --run, bytes += 2) {
      sum1 += std::to_integer<uint32_t>(bytes[0]) << 8 | std::to_integer<uint32_t>(bytes[1]);
      sum2 += sum1;
    }
    sum1 = fold(sum1);
    sum2 = fold(sum2);
  }
  return fold(sum2) << 16 | fold(sum1);
}

// A one-dimensional chunked dataset in a mapped file. Elements lie little-endian, as on every machine this
// program is built for.
class ChunkedArray {
 public:
  void open(const fs::path& path, const MappedFile& map, hid_t file, const char* name, size_t element) {
    path_ = path.string();
    name_ = name;
    element_ = element;
    Handle set(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose);
    if (!set.valid()) damaged(path, fmt::format("no dataset /{}", name));
    Handle type(H5Dget_type(set.get()), H5Tclose);
    if (!H5Tequal(type.get(), element == 8 ? H5T_STD_U64LE : H5T_STD_U32LE))
      damaged(path, fmt::format("/{} has another type", name));
    Handle space(H5Dget_space(set.get()), H5Sclose);
    Handle properties(H5Dget_create_plist(set.get()), H5Pclose);
    hsize_t size = 0;
    hsize_t chunk = 0;
    if (H5Sget_simple_extent_ndims(space.get()) != 1 ||
        H5Sget_simple_extent_dims(space.get(), &size, nullptr) != 1 ||
        H5Pget_layout(properties.get()) != H5D_CHUNKED || H5Pget_chunk(properties.get(), 1, &chunk) != 1 ||
        H5Pget_nfilters(properties.get()) != 1)
      damaged(path, fmt::format("/{} has another layout", name));
    unsigned flags = 0;
    size_t values = 0;
    if (H5Pget_filter2(properties.get(), 0, &flags, &values, nullptr, 0, nullptr, nullptr) !=
        H5Z_FILTER_FLETCHER32)
      damaged(path, fmt::format("/{} has another filter", name));
    size_ = size;
    chunk_ = chunk;
    std::span<const std::byte> bytes = map.bytes();
    for (hsize_t at = 0; at < size; at += chunk) {
      unsigned mask = 0;
      haddr_t address = HADDR_UNDEF;
      hsize_t stored = 0;
      if (H5Dget_chunk_info_by_coord(set.get(), &at, &mask, &address, &stored) < 0)
        damaged(path, hdf5::last_error());
      if (address == HADDR_UNDEF || mask != 0 || stored != chunk * element + 4 || address > bytes.size() ||
          bytes.size() - address < stored)
        damaged(path, fmt::format("a chunk of /{} is missing", name));
      chunks_.push_back(bytes.data() + address);
    }
    verified_ = std::make_unique<std::atomic<bool>[]>(chunks_.size());
  }

  uint64_t size() const { return size_; }

  void read(uint64_t begin, uint64_t count, void* out) const {
    if (begin > size_ || size_ - begin < count) damaged(path_, fmt::format("/{} is too short", name_));
    auto* to = static_cast<std::byte*>(out);
    while (count > 0) {
      size_t chunk = begin / chunk_;
      uint64_t at = begin % chunk_;
      uint64_t take = std::min(count, chunk_ - at);
      verify(chunk);
      std::memcpy(to, chunks_[chunk] + at * element_, take * element_);
      to += take * element_;
      begin += take;
      count -= take;
    }
  }

  void verify_all() const {
    for (size_t i = 0; i < chunks_.size(); ++i) verify(i);
  }

 private:
  void verify(size_t chunk) const {
    if (verified_[chunk].load(std::memory_order_relaxed)) return;
    size_t bytes = chunk_ * element_;
    uint32_t stored = 0;
    std::memcpy(&stored, chunks_[chunk] + bytes, sizeof stored);
    if (stored != fletcher32(chunks_[chunk], bytes))
      damaged(path_, fmt::format("checksum of /{} does not hold from element {}", name_, chunk * chunk_));
    verified_[chunk].store(true, std::memory_order_relaxed);
  }

  std::string path_;
  std::string name_;
  size_t element_ = 4;
  uint64_t size_ = 0;
  uint64_t chunk_ = 1;
  std::vector<const std::byte*> chunks_;
  std::unique_ptr<std::atomic<bool>[]> verified_;
};

}  // namespace

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

  uint64_t number_attribute(hid_t file, const std::string& name) {
    uint64_t value = 0;
    Handle set(H5Aopen(file, name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!set.valid() || H5Aread(set.get(), H5T_NATIVE_UINT64, &value) < 0)
      damaged(path, fmt::format("no attribute {}", name));
    return value;
  }
  std::string text_attribute(hid_t file, const char* name) {
    Handle set(H5Aopen(file, name, H5P_DEFAULT), H5Aclose);
    Handle type(set.valid() ? H5Aget_type(set.get()) : -1, H5Tclose);
    if (!type.valid() || H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0)
      damaged(path, fmt::format("no attribute {}", name));
    std::string value(H5Tget_size(type.get()), '\0');
    if (H5Aread(set.get(), type.get(), value.data()) < 0) damaged(path, hdf5::last_error());
    while (!value.empty() && value.back() == '\0') value.pop_back();
    return value;
  }
};

ShardReader::ShardReader(const fs::path& path) : impl_(std::make_unique<Impl>(path)) {
  hdf5::initialise();
  Impl& s = *impl_;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(access.get(), false, true);
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file.valid()) damaged(path, hdf5::last_error());
  if (H5Aexists(file.get(), "format") <= 0 || s.text_attribute(file.get(), "format") != "llmft-shard")
    damaged(path, "it is an HDF5 file of another kind");
  uint64_t version = s.number_attribute(file.get(), "format_version");
  if (version != static_cast<uint64_t>(kShardFormatVersion))
    user_error("{}: shard format version {}, this program reads {}; run 'llmft preprocess --force' again",
               path.string(), version, kShardFormatVersion);
  s.origin.tokenizer_hash = s.text_attribute(file.get(), "tokenizer_hash");
  s.origin.settings = s.text_attribute(file.get(), "settings");
  s.origin.fingerprint = s.text_attribute(file.get(), "fingerprint");
  s.origin.split = s.text_attribute(file.get(), "split");
  s.origin.index = s.number_attribute(file.get(), "shard_index");
  s.origin.count = s.number_attribute(file.get(), "shard_count");
  s.origin.first_row = s.number_attribute(file.get(), "first_row");
  s.origin.rows = s.number_attribute(file.get(), "source_rows");
  for (size_t i = 0; i < s.counts.drops.size(); ++i)
    s.counts.drops[i] = s.number_attribute(file.get(), std::string("dropped_") + kDropReasonNames[i]);
  s.counts.other_split = s.number_attribute(file.get(), "other_split");
  s.counts.truncated = s.number_attribute(file.get(), "truncated");
  s.tokens.open(path, s.map, file.get(), "tokens", 4);
  s.offsets.open(path, s.map, file.get(), "offsets", 8);
  s.loss_start.open(path, s.map, file.get(), "loss_start", 4);
  s.row.open(path, s.map, file.get(), "row", 8);
  if (s.offsets.size() != s.loss_start.size() + 1 || s.row.size() != s.loss_start.size())
    damaged(path, "datasets of different lengths");
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
    damaged(impl_->path, "/offsets do not fit /tokens");
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
      damaged(impl_->path, fmt::format("/loss_start of sample {} is outside the sample", i));
  impl_->row.verify_all();
  impl_->tokens.verify_all();
}

}  // namespace llmft
