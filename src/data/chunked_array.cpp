#include "chunked_array.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"

namespace llmft {
namespace fs = std::filesystem;
using hdf5::Handle;

namespace {

constexpr size_t kLanes = 16;
constexpr size_t kRounds = 256;  // of which no lane overflows 32 bits: 65535 * 256 * 257 / 2

// As the filter leaves it: 0 only when every word is 0.
uint32_t modulo(uint64_t sum) {
  return sum == 0 ? 0 : static_cast<uint32_t>((sum - 1) % 65535 + 1);
}

uint32_t swapped(uint32_t word) {
  return (word & 0xff) << 8 | word >> 8;
}

}  // namespace

// The filter takes words of 16 bits, big-endian: sum1 of the words, sum2 of sum1 after each word, both modulo
// 65535. Swapping a word's bytes multiplies it by 256 modulo 65535, so the sums of the words as they lie in
// memory are swapped at the end. Words go by turns to lanes, which the compiler turns into vectors.
uint32_t fletcher32(const std::byte* bytes, size_t size) {
  uint64_t sum1 = 0;
  uint64_t sum2 = 0;
  size_t words = size / 2;
  std::array<uint16_t, kLanes> in{};
  while (words >= kLanes) {
    size_t rounds = std::min(words / kLanes, kRounds);
    std::array<uint32_t, kLanes> once{};
    std::array<uint32_t, kLanes> weighted{};  // the first round's words count `rounds` times
    for (size_t r = 0; r < rounds; ++r, bytes += sizeof in) {
      std::memcpy(in.data(), bytes, sizeof in);
      for (size_t i = 0; i < kLanes; ++i) {
        once[i] += in[i];
        weighted[i] += once[i];
      }
    }
    sum2 += sum1 * rounds * kLanes;
    for (size_t i = 0; i < kLanes; ++i) {
      sum1 += once[i];
      sum2 += static_cast<uint64_t>(weighted[i]) * kLanes - static_cast<uint64_t>(once[i]) * i;
    }
    sum1 = modulo(sum1);
    sum2 = modulo(sum2);
    words -= rounds * kLanes;
  }
  for (; words > 0; --words, bytes += 2) {
    uint16_t word = 0;
    std::memcpy(&word, bytes, sizeof word);
    sum1 += word;
    sum2 += sum1;
  }
  return swapped(modulo(sum2)) << 16 | swapped(modulo(sum1));
}

void damaged_shard(const fs::path& path, const std::string& reason) {
  throw DamagedShard(fmt::format(
      "{}: not a whole shard ({}); delete it and run 'llmft preprocess' again with the same settings",
      path.string(), reason));
}

void ChunkedArray::open(const fs::path& path, const MappedFile& map, hid_t file, const char* name,
                        size_t element) {
  path_ = path.string();
  name_ = name;
  element_ = element;
  Handle set(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose);
  if (!set.valid()) damaged_shard(path, fmt::format("no dataset /{}", name));
  Handle type(H5Dget_type(set.get()), H5Tclose);
  if (!H5Tequal(type.get(), element == 8 ? H5T_STD_U64LE : H5T_STD_U32LE))
    damaged_shard(path, fmt::format("/{} has another type", name));
  Handle space(H5Dget_space(set.get()), H5Sclose);
  Handle properties(H5Dget_create_plist(set.get()), H5Pclose);
  hsize_t size = 0;
  hsize_t chunk = 0;
  if (H5Sget_simple_extent_ndims(space.get()) != 1 ||
      H5Sget_simple_extent_dims(space.get(), &size, nullptr) != 1 ||
      H5Pget_layout(properties.get()) != H5D_CHUNKED || H5Pget_chunk(properties.get(), 1, &chunk) != 1 ||
      H5Pget_nfilters(properties.get()) != 1)
    damaged_shard(path, fmt::format("/{} has another layout", name));
  unsigned flags = 0;
  size_t values = 0;
  if (H5Pget_filter2(properties.get(), 0, &flags, &values, nullptr, 0, nullptr, nullptr) !=
      H5Z_FILTER_FLETCHER32)
    damaged_shard(path, fmt::format("/{} has another filter", name));
  size_ = size;
  chunk_ = chunk;
  std::span<const std::byte> bytes = map.bytes();
  for (hsize_t at = 0; at < size; at += chunk) {
    unsigned mask = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t stored = 0;
    if (H5Dget_chunk_info_by_coord(set.get(), &at, &mask, &address, &stored) < 0)
      damaged_shard(path, hdf5::last_error());
    if (address == HADDR_UNDEF || mask != 0 || stored != chunk * element + 4 || address > bytes.size() ||
        bytes.size() - address < stored)
      damaged_shard(path, fmt::format("a chunk of /{} is missing", name));
    chunks_.push_back(bytes.data() + address);
  }
  verified_ = std::make_unique<std::atomic<bool>[]>(chunks_.size());
}

void ChunkedArray::read(uint64_t begin, uint64_t count, void* out) const {
  if (begin > size_ || size_ - begin < count) damaged_shard(path_, fmt::format("/{} is too short", name_));
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

void ChunkedArray::verify_all() const {
  for (size_t i = 0; i < chunks_.size(); ++i) verify(i);
}

void ChunkedArray::verify(size_t chunk) const {
  if (verified_[chunk].load(std::memory_order_relaxed)) return;
  size_t bytes = chunk_ * element_;
  uint32_t stored = 0;
  std::memcpy(&stored, chunks_[chunk] + bytes, sizeof stored);
  if (stored != fletcher32(chunks_[chunk], bytes))
    damaged_shard(path_, fmt::format("checksum of /{} does not hold from element {}", name_, chunk * chunk_));
  verified_[chunk].store(true, std::memory_order_relaxed);
}

}  // namespace llmft
