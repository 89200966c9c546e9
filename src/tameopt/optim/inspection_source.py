"""The LLVM text behind `tameopt.optim.inspection`: one walk over parameters, gradients, states and counts."""

from __future__ import annotations

CHANGED, ROWLESS, VARIED = -1, 1 << 40, 1 << 41  # what the function answers, beside a number
_AHEAD = 6  # our choice: how many tensors ahead memory is asked for

# the words of the table that the function reads: addresses of the arrays and functions, and numbers
_NUMBERS = ("count", "offset", "entries", "owned", "columns")
WORDS = (
    *("list", "count", "offset", "undefined", "items", "impls", "places", "dtypes", "found", "present", "hints"),
    *("metas", "state", "entries", "keys", "values", "owned", "keepers", "names", "tensors"),
    *("columns", "column_at", "column_bytes"),
    *("get_item", "get_entry", "next_entry", "grad", "data_ptr", "dtype", "layout", "contiguous"),
)


def source() -> str:
    """LLVM text of `inspect(table)`: how many gradients are missing, plus 2^40 if one is not contiguous, plus
    2^41 if a column holds different numbers; -1 if something is not what it was."""
    loads = "\n".join(
        f"  %word_{place} = getelementptr i64, ptr %table, i64 {place}\n"
        f"  %{name} = load {'i64' if name in _NUMBERS else 'ptr'}, ptr %word_{place}"
        for place, name in enumerate(WORDS)
    )
    text = _TEXT.replace("LOADS", loads)
    for word, number in (("AHEAD", _AHEAD), ("ROWLESS", ROWLESS), ("VARIED", VARIED)):
        text = text.replace(word, str(number))
    return text


_TEXT = """
define i64 @inspect(ptr %table) {
entry:
LOADS
  %out = alloca ptr
  %number = alloca i32
  %flag = alloca i8
  %position = alloca i64
  %key_out = alloca ptr
  %value_out = alloca ptr
  store i64 0, ptr %position
  br label %parameter
parameter:
  %i = phi i64 [ 0, %entry ], [ %i_next, %counted ]
  %answer = phi i64 [ 0, %entry ], [ %answer_next, %counted ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %object, label %state_begin
object:
  %i_next = add i64 %i, 1
  %later = add i64 %i, AHEAD
  %in_range = icmp slt i64 %later, %count
  %ahead = select i1 %in_range, i64 %later, i64 %i
  %ahead_item_at = getelementptr ptr, ptr %items, i64 %ahead
  %ahead_item = load ptr, ptr %ahead_item_at
  call void @llvm.prefetch.p0(ptr %ahead_item, i32 0, i32 3, i32 1)
  %ahead_impl_at = getelementptr ptr, ptr %impls, i64 %ahead
  %ahead_impl = load ptr, ptr %ahead_impl_at
  call void @llvm.prefetch.p0(ptr %ahead_impl, i32 0, i32 3, i32 1)
  %ahead_impl_2 = getelementptr i8, ptr %ahead_impl, i64 64
  call void @llvm.prefetch.p0(ptr %ahead_impl_2, i32 0, i32 3, i32 1)
  %ahead_impl_3 = getelementptr i8, ptr %ahead_impl, i64 128
  call void @llvm.prefetch.p0(ptr %ahead_impl_3, i32 0, i32 3, i32 1)
  %ahead_hint_at = getelementptr ptr, ptr %hints, i64 %ahead
  %ahead_hint = load ptr, ptr %ahead_hint_at
  call void @llvm.prefetch.p0(ptr %ahead_hint, i32 0, i32 3, i32 1)
  %ahead_pair = mul i64 %ahead, 2
  %ahead_meta_at = getelementptr ptr, ptr %metas, i64 %ahead_pair
  %ahead_meta = load ptr, ptr %ahead_meta_at
  call void @llvm.prefetch.p0(ptr %ahead_meta, i32 0, i32 3, i32 1)
  %ahead_meta_before = getelementptr i8, ptr %ahead_meta, i64 -40
  call void @llvm.prefetch.p0(ptr %ahead_meta_before, i32 0, i32 3, i32 1)
  %ahead_g_at = getelementptr ptr, ptr %ahead_meta_at, i64 1
  %ahead_g = load ptr, ptr %ahead_g_at
  call void @llvm.prefetch.p0(ptr %ahead_g, i32 0, i32 3, i32 1)
  %ahead_g_2 = getelementptr i8, ptr %ahead_g, i64 64
  call void @llvm.prefetch.p0(ptr %ahead_g_2, i32 0, i32 3, i32 1)
  %ahead_g_3 = getelementptr i8, ptr %ahead_g, i64 128
  call void @llvm.prefetch.p0(ptr %ahead_g_3, i32 0, i32 3, i32 1)
  %item = call ptr %get_item(ptr %list, i64 %i)
  %item_then_at = getelementptr ptr, ptr %items, i64 %i
  %item_then = load ptr, ptr %item_then_at
  %same_item = icmp eq ptr %item, %item_then
  br i1 %same_item, label %tensor, label %changed
tensor:
  %impl_at = getelementptr i8, ptr %item, i64 %offset
  %impl = load ptr, ptr %impl_at
  %impl_then_at = getelementptr ptr, ptr %impls, i64 %i
  %impl_then = load ptr, ptr %impl_then_at
  %same_impl = icmp eq ptr %impl, %impl_then
  br i1 %same_impl, label %memory, label %changed
memory:
  %failed_1 = call i32 %data_ptr(ptr %impl_then_at, ptr %out)
  %place = load ptr, ptr %out
  %place_then_at = getelementptr ptr, ptr %places, i64 %i
  %place_then = load ptr, ptr %place_then_at
  %same_place = icmp eq ptr %place, %place_then
  %asked_1 = icmp eq i32 %failed_1, 0
  %good_1 = and i1 %same_place, %asked_1
  br i1 %good_1, label %gradient, label %changed
gradient:
  %g = call ptr %grad(ptr %impl)
  %g_impl = load ptr, ptr %g
  %pair = mul i64 %i, 2
  %meta_at = getelementptr ptr, ptr %metas, i64 %pair
  store ptr %g, ptr %meta_at
  %g_then_at = getelementptr ptr, ptr %meta_at, i64 1
  store ptr %g_impl, ptr %g_then_at
  %none = icmp eq ptr %g_impl, %undefined
  %found_at = getelementptr ptr, ptr %found, i64 %i
  %present_at = getelementptr i8, ptr %present, i64 %i
  br i1 %none, label %absent, label %there
absent:
  store ptr null, ptr %found_at
  store i8 0, ptr %present_at
  %answer_absent = add i64 %answer, 1
  br label %counted
there:
  store i8 1, ptr %present_at
  %failed_2 = call i32 %layout(ptr %g, ptr %number)
  %kind = load i32, ptr %number
  %failed_3 = call i32 %dtype(ptr %g, ptr %number)
  %type = load i32, ptr %number
  %type_then_at = getelementptr i64, ptr %dtypes, i64 %i
  %type_then = load i64, ptr %type_then_at
  %wide_type = sext i32 %type to i64
  %same_type = icmp eq i64 %wide_type, %type_then
  %kind_failed = or i32 %kind, %failed_2
  %failed_either = or i32 %kind_failed, %failed_3
  %strided = icmp eq i32 %failed_either, 0
  %good_2 = and i1 %strided, %same_type
  br i1 %good_2, label %dense, label %changed
dense:
  %failed_4 = call i32 %data_ptr(ptr %g, ptr %found_at)
  %failed_5 = call i32 %contiguous(ptr %g, ptr %flag)
  %failed_any = or i32 %failed_4, %failed_5
  %asked_2 = icmp eq i32 %failed_any, 0
  br i1 %asked_2, label %order, label %changed
order:
  %is_rows = load i8, ptr %flag
  %rows = icmp ne i8 %is_rows, 0
  %answer_unlike = or i64 %answer, ROWLESS
  %answer_there = select i1 %rows, i64 %answer, i64 %answer_unlike
  br label %counted
counted:
  %answer_next = phi i64 [ %answer_absent, %absent ], [ %answer_there, %order ]
  br label %parameter
state_begin:
  br label %entry_of_state
entry_of_state:
  %j = phi i64 [ 0, %state_begin ], [ %j_next, %same_entry ]
  %j_next = add i64 %j, 1
  %is_entry = call i32 %next_entry(ptr %state, ptr %position, ptr %key_out, ptr %value_out)
  %last = icmp eq i32 %is_entry, 0
  br i1 %last, label %entries_over, label %entry_there
entry_there:
  %within = icmp slt i64 %j, %entries
  br i1 %within, label %compare_entry, label %changed
compare_entry:
  %key = load ptr, ptr %key_out
  %key_then_at = getelementptr ptr, ptr %keys, i64 %j
  %key_then = load ptr, ptr %key_then_at
  %same_key = icmp eq ptr %key, %key_then
  %value = load ptr, ptr %value_out
  %value_then_at = getelementptr ptr, ptr %values, i64 %j
  %value_then = load ptr, ptr %value_then_at
  %same_value = icmp eq ptr %value, %value_then
  %same_both = and i1 %same_key, %same_value
  br i1 %same_both, label %same_entry, label %changed
same_entry:
  br label %entry_of_state
entries_over:
  %all_entries = icmp eq i64 %j, %entries
  br i1 %all_entries, label %owned_state, label %changed
owned_state:
  %k = phi i64 [ 0, %entries_over ], [ %k_next, %same_owned ]
  %more_owned = icmp slt i64 %k, %owned
  br i1 %more_owned, label %ask, label %column
ask:
  %k_next = add i64 %k, 1
  %k_later = add i64 %k, AHEAD
  %k_in_range = icmp slt i64 %k_later, %owned
  %k_ahead = select i1 %k_in_range, i64 %k_later, i64 %k
  %ahead_keeper_at = getelementptr ptr, ptr %keepers, i64 %k_ahead
  %ahead_keeper = load ptr, ptr %ahead_keeper_at
  call void @llvm.prefetch.p0(ptr %ahead_keeper, i32 0, i32 3, i32 1)
  %keeper_at = getelementptr ptr, ptr %keepers, i64 %k
  %keeper = load ptr, ptr %keeper_at
  %name_at = getelementptr ptr, ptr %names, i64 %k
  %name = load ptr, ptr %name_at
  %tensor_now = call ptr %get_entry(ptr %keeper, ptr %name)
  %tensor_then_at = getelementptr ptr, ptr %tensors, i64 %k
  %tensor_then = load ptr, ptr %tensor_then_at
  %same_owned_tensor = icmp eq ptr %tensor_now, %tensor_then
  br i1 %same_owned_tensor, label %same_owned, label %changed
same_owned:
  br label %owned_state
column:
  %c = phi i64 [ 0, %owned_state ], [ %c_next, %column_over ]
  %varied = phi i64 [ 0, %owned_state ], [ %varied_next, %column_over ]
  %more_columns = icmp slt i64 %c, %columns
  br i1 %more_columns, label %column_there, label %done
column_there:
  %c_next = add i64 %c, 1
  %base_at = getelementptr ptr, ptr %column_at, i64 %c
  %base = load ptr, ptr %base_at
  %twice = mul i64 %c, 2
  %length_at = getelementptr i64, ptr %column_bytes, i64 %twice
  %length = load i64, ptr %length_at
  %size_at = getelementptr i64, ptr %length_at, i64 1
  %size = load i64, ptr %size_at
  %is_float = icmp eq i64 %size, 4
  %shift = select i1 %is_float, i64 1, i64 2
  %words = shl i64 %length, %shift
  %halves = lshr i64 %words, 1
  %first_low = load i32, ptr %base
  %step = select i1 %is_float, i64 0, i64 1
  %first_high_at = getelementptr i32, ptr %base, i64 %step
  %first_high = load i32, ptr %first_high_at
  br label %number_of_column
number_of_column:
  %w = phi i64 [ 0, %column_there ], [ %w_next, %number_there ]
  %differ = phi i32 [ 0, %column_there ], [ %differ_next, %number_there ]
  %more_words = icmp slt i64 %w, %halves
  br i1 %more_words, label %number_there, label %column_over
number_there:
  %word_now_at = getelementptr i32, ptr %base, i64 %w
  %word_now = load i32, ptr %word_now_at
  %odd = and i64 %w, %step
  %is_high = icmp ne i64 %odd, 0
  %like = select i1 %is_high, i32 %first_high, i32 %first_low
  %off = xor i32 %word_now, %like
  %differ_next = or i32 %differ, %off
  %w_next = add i64 %w, 1
  br label %number_of_column
column_over:
  %varies = icmp ne i32 %differ, 0
  %flag_varied = select i1 %varies, i64 VARIED, i64 0
  %varied_next = or i64 %varied, %flag_varied
  br label %column
done:
  %whole = or i64 %answer, %varied
  ret i64 %whole
changed:
  ret i64 -1
}
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""
