// Encoding runs in batches of pieces, each stage over the whole batch: positions, keys and hashes with a
// prefetch of the table's line, then the look-up. One piece at a time, every look-up would wait for memory.
//
// Invariant: the word table holds every entry of the vocabulary with what encode() gives for it, so a piece
// that is missing from the table is not an entry of the vocabulary, and merging it is right.
#include "llmft/tokenizer/bpe_tokenizer.hpp"

#include <algorithm>
#include <bit>

#include "llmft/base/error.hpp"
#include "llmft/tokenizer/word_kernels.hpp"

namespace llmft {
namespace {

constexpr size_t kTableBytes = size_t{128} << 20;  // a bound per thread that encodes at the same time
constexpr size_t kKeptScratch = size_t{16} << 20;
constexpr size_t kLongestKept = 256;  // words beyond this hardly come twice
constexpr size_t kPart = size_t{8} << 10;

size_t table_bytes(size_t wanted, size_t vocabulary) {
  return wanted != 0 ? wanted : std::max(kTableBytes, vocabulary * 16 * sizeof(WordTable::Entry));
}

// The first start at or after block's first byte, or size.
size_t next_start(const std::vector<uint64_t>& starts, size_t block, size_t size) {
  for (; block * 64 < size; ++block)
    if (starts[block] != 0) return block * 64 + static_cast<size_t>(std::countr_zero(starts[block]));
  return size;
}

}  // namespace

struct BpeTokenizer::Workspace {
  // Room for more words than the vocabulary: growing on the way would cost more.
  explicit Workspace(const WordTable& table) : words(table) {
    if (words.bytes() * 4 <= words.max_bytes()) words.grow();
  }
  WordTable words;
  SplitScratch split;
  MergeTable::Scratch merge;
  WordBatch batch;
  size_t end = 0;  // of the batch's last piece
  // Pieces that are learned together.
  uint32_t missed[WordBatch::kMost];
  std::vector<std::string_view> pieces;
  std::vector<MergeTable::Range> ranges;
  std::vector<TokenId> merged;

  std::string_view piece_at(std::string_view text, size_t base, size_t i) const {
    const size_t at = base + batch.position[i];
    return text.substr(at, (i + 1 < batch.count ? base + batch.position[i + 1] : end) - at);
  }
};

class BpeTokenizer::Lease {
 public:
  explicit Lease(const BpeTokenizer& owner) : owner_(owner) {
    {
      std::lock_guard lock(owner.mutex_);
      if (!owner.idle_.empty()) {
        work_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    if (!work_) work_ = std::make_unique<Workspace>(*owner.vocabulary_table_);
  }
  ~Lease() {
    // A text of a gigabyte comes once: its scratch is not kept.
    if (work_->split.blocks.capacity() * sizeof(BlockMasks) > kKeptScratch) work_->split = {};
    if (work_->merge.symbols.capacity() * sizeof(TokenId) > kKeptScratch) work_->merge = {};
    std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(work_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Workspace& operator*() { return *work_; }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<Workspace> work_;
};

BpeTokenizer::BpeTokenizer(BpeModel model, const std::string& where)
    : kind_(std::move(model.kind)),
      special_(std::move(model.special)),
      splitter_(std::move(model.splitter)),
      kernels_(&word_kernels(model.tier)) {
  if (model.vocabulary.size() > MergeTable::kMaxIds || model.merges.size() > MergeTable::kMaxMerges)
    user_error(
        "{}: {} ids and {} merges are more than this program handles ({} and {}); use another tokenizer",
        where, model.vocabulary.size(), model.merges.size(), MergeTable::kMaxIds, MergeTable::kMaxMerges);

  longest_kept_ = kLongestKept;
  std::array<TokenId, 256> byte_ids;
  std::array<bool, 256> have{};
  for (size_t id = 0; id < model.vocabulary.size(); ++id) {
    const std::string& bytes = model.vocabulary[id];
    longest_kept_ = std::max(longest_kept_, bytes.size());
    if (bytes.size() != 1) continue;
    const auto byte = static_cast<unsigned char>(bytes[0]);
    byte_ids[byte] = static_cast<TokenId>(id);
    have[byte] = true;
  }
  for (size_t byte = 0; byte < 256; ++byte)
    if (!have[byte])
      user_error(
          "{}: the vocabulary has no entry for byte 0x{:02X} (byte-level BPE needs all 256); this is not a "
          "byte-level tokenizer, or the file is damaged",
          where, byte);
  merges_ = std::make_unique<MergeTable>(byte_ids, model.merges, model.ranks, model.tier);

  auto table = std::make_unique<WordTable>(table_bytes(model.table_bytes, model.vocabulary.size()));
  MergeTable::Scratch scratch;
  std::vector<TokenId> ids;
  for (size_t id = 0; id < model.vocabulary.size(); ++id) {
    const std::string& bytes = model.vocabulary[id];
    if (bytes.empty()) continue;
    ids.clear();
    if (model.whole_piece == WholePiece::is_one_token)
      ids.push_back(static_cast<TokenId>(id));
    else
      merges_->encode(bytes, ids, scratch);
    const WordKey key = bytes.size() <= WordTable::kMaxShort
                            ? WordTable::short_key(bytes.data(), bytes.size(), bytes.size())
                            : WordTable::long_key(bytes);
    table->insert(key, key.hash(), bytes, ids);
  }
  check(!table->full(), "the word table cannot hold the vocabulary");
  vocabulary_table_ = std::move(table);
  idle_.push_back(std::make_unique<Workspace>(*vocabulary_table_));

  decoded_ = std::move(model.vocabulary);
  auto all = special_;
  all.insert(model.always_matched.begin(), model.always_matched.end());
  for (const auto& [name, id] : all) {
    if (id >= decoded_.size()) decoded_.resize(id + 1);
    decoded_[id] = name;
  }
  always_matched_ = NameMatcher(std::move(model.always_matched));
  all_names_ = NameMatcher(std::move(all));
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::encode(std::string_view text, std::vector<TokenId>& out) const {
  encode_matching(text, always_matched_, out);
}

void BpeTokenizer::encode_with_special(std::string_view text, std::vector<TokenId>& out) const {
  encode_matching(text, all_names_, out);
}

void BpeTokenizer::encode_matching(std::string_view text, const NameMatcher& names,
                                   std::vector<TokenId>& out) const {
  Lease work(*this);
  if (names.empty()) return encode_text(text, *work, out);
  names.walk(
      text, [&](std::string_view part) { encode_text(part, *work, out); },
      [&](TokenId id) { out.push_back(id); });
}

// Long texts go part by part, so that what the stages hand to one another stays in the cache.
void BpeTokenizer::encode_text(std::string_view text, Workspace& work, std::vector<TokenId>& out) const {
  while (!text.empty()) {
    const size_t end = cut(text);
    encode_part(text.substr(0, end), work, out);
    text.remove_prefix(end);
  }
}

size_t BpeTokenizer::cut(std::string_view text) const {
  if (text.size() <= 2 * kPart) return text.size();
  size_t tried = kPart / 2;
  for (size_t limit = kPart; limit < text.size(); limit *= 2) {
    if (const size_t at = splitter_->last_cut(text, tried, limit); at != 0) return at;
    tried = limit;
  }
  return text.size();
}

void BpeTokenizer::encode_part(std::string_view text, Workspace& work, std::vector<TokenId>& out) const {
  splitter_->split(text, work.split);
  const std::vector<uint64_t>& starts = work.split.starts;
  const size_t blocks = (text.size() + 63) / 64;
  const WordKernels& kernels = *kernels_;
  WordBatch& batch = work.batch;
  for (size_t block = 0; block < blocks; block += WordBatch::kBlocks) {
    kernels.list(&starts[block], std::min(WordBatch::kBlocks, blocks - block), batch);
    if (batch.count == 0) continue;
    const size_t base = block * 64;
    const size_t end = next_start(starts, block + WordBatch::kBlocks, text.size());
    // What matters of a length beyond 32 bits is that it is long.
    batch.position[batch.count] = static_cast<uint32_t>(std::min<size_t>(end - base, UINT32_MAX));
    kernels.keys(text.data() + base, text.size() - base, work.words, batch);
    work.end = end;
    if (batch.long_count != 0) find_long_keys(text, base, work);

    size_t filled = 0;
    bool learned = false;
    for (size_t i = 0; (i = kernels.look_up(work.words, batch, i, filled)) < batch.count; ++i) {
      out.insert(out.end(), batch.ids, batch.ids + filled);
      filled = 0;
      const std::string_view piece = work.piece_at(text, base, i);
      if (work.words.find(batch.key[i], batch.hash[i], piece, out)) continue;
      if (!learned) {
        learn(text, base, i, work);
        learned = true;
      }
      encode_missed(piece, batch.key[i], batch.hash[i], work, out);
    }
    out.insert(out.end(), batch.ids, batch.ids + filled);
  }
}

void BpeTokenizer::learn(std::string_view text, size_t base, size_t first, Workspace& work) const {
  WordBatch& batch = work.batch;
  work.pieces.clear();
  work.merged.clear();
  size_t count = 0;
  uint32_t* missed = work.missed;
  for (size_t i = first; i < batch.count; ++i) {
    missed[count] = static_cast<uint32_t>(i);
    count += work.words.at_home(batch.key[i], batch.hash[i]) ? 0 : 1;
  }
  size_t kept = 0;
  for (size_t k = 0; k < count; ++k) {
    const size_t i = missed[k];
    const std::string_view piece = work.piece_at(text, base, i);
    if (!is_kept(piece) || work.words.contains(batch.key[i], batch.hash[i], piece)) continue;
    missed[kept++] = missed[k];
    work.pieces.push_back(piece);
  }
  work.ranges.resize(kept);
  merges_->encode(work.pieces, work.merged, work.ranges, work.merge);
  for (size_t k = 0; k < kept; ++k) {
    const size_t i = missed[k];
    const std::string_view piece = work.pieces[k];
    if (work.words.contains(batch.key[i], batch.hash[i], piece)) continue;  // twice in this batch
    const MergeTable::Range& range = work.ranges[k];
    add_word(piece, batch.key[i], batch.hash[i], std::span(work.merged).subspan(range.first, range.count),
             work);
  }
}

void BpeTokenizer::find_long_keys(std::string_view text, size_t base, Workspace& work) const {
  WordBatch& batch = work.batch;
  const std::span<const uint32_t> pieces(batch.long_pieces, batch.long_count);
  for (size_t i : pieces) {
    const std::string_view piece = work.piece_at(text, base, i);
    if (!is_kept(piece)) continue;
    batch.key[i] = WordTable::long_key(piece);
    batch.hash[i] = batch.key[i].hash();
    work.words.prefetch(batch.hash[i]);
  }
  for (size_t i : pieces) work.words.prefetch_record(batch.key[i], batch.hash[i]);
}

void BpeTokenizer::encode_missed(std::string_view piece, WordKey key, uint64_t hash, Workspace& work,
                                 std::vector<TokenId>& out) const {
  if (is_kept(piece) && work.words.find(key, hash, piece, out)) return;
  const size_t first = out.size();
  merges_->encode(piece, out, work.merge);
  if (is_kept(piece)) add_word(piece, key, hash, std::span(out).subspan(first), work);
}

void BpeTokenizer::add_word(std::string_view piece, WordKey key, uint64_t hash, std::span<const TokenId> ids,
                            Workspace& work) const {
  if (work.words.full())
    work.words = *vocabulary_table_;  // start over: words of the text at hand come back first
  work.words.insert(key, hash, piece, ids);
}

bool BpeTokenizer::is_kept(std::string_view piece) const {
  return piece.size() <= longest_kept_;
}

std::string BpeTokenizer::decode(std::span<const TokenId> ids) const {
  std::string text;
  for (TokenId id : ids) {
    if (id >= decoded_.size())
      user_error(
          "tokenizer: id {} is not in the vocabulary (ids end at {}); these ids are another tokenizer's", id,
          decoded_.size() - 1);
    text += decoded_[id];
  }
  return text;
}

}  // namespace llmft
