"""What is counted in a compiled program."""

from optax_ftml._report import _hlo

HLO = """HloModule step, is_scheduled=true

%fused (p0: f32[8,128]) -> (f32[8,128], f32[8,128]) {
  %p0 = f32[8,128]{1,0} parameter(0)
  %a = f32[8,128]{1,0} add(%p0, %p0)
  ROOT %t = (f32[8,128]{1,0}, f32[8,128]{1,0}) tuple(%a, %a)
}

%copies (p1: f32[8,128]) -> f32[8,128] {
  %p1 = f32[8,128]{1,0} parameter(0)
  ROOT %c = f32[8,128]{1,0} copy(%p1)
}

%body (p2: f32[8,128]) -> f32[8,128] {
  %p2 = f32[8,128]{1,0} parameter(0)
  ROOT %n = f32[8,128]{1,0} negate(%p2)
}

ENTRY %main (x: f32[8,128], s: f32[]) -> (f32[8,128], bf16[4]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = f32[]{:T(128)} parameter(1)
  %h = bf16[4]{0} constant({1, 2, 3, 4})
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) \
copy-start(%x), backend_config={"a":"(("}
  %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %part = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) \
slice-start(%x), slice={[0:2], [0:128]}
  %two = f32[2,128]{1,0:S(1)} slice-done(%part)
  %f = (f32[8,128]{1,0}, /*index=1*/f32[8,128]{1,0:S(1)}) \
fusion(f32[8,128]{1,0:T(8,128)S(1)} %done), kind=kLoop, calls=%fused, \
metadata={op_name="a(b"}
  %f0 = f32[8,128]{1,0} get-tuple-element(%f), index=0
  %wrapped = f32[8,128]{1,0} fusion(%f0), kind=kLoop, calls=%copies
  %e = f32[]{:T(128)} exponential(%s)
  %r = f32[]{:T(128)} all-reduce(%e), replica_groups={}, to_apply=%add
  %call = f32[8,128]{1,0} call(%f0), to_apply=%body
  ROOT %out = (f32[8,128]{1,0}, bf16[4]{0}) tuple(%call, %h)
}
"""


def test_counts_of_a_program_written_by_hand():
    block = 8 * 128 * 4
    assert _hlo.count(HLO) == _hlo.Counts(
        kernels=3,
        fusions=2,
        scalar_kernels=2,
        copies=1,
        copied_bytes=block,
        transfers=2,
        collectives=(("all-reduce", 4),),
        # Prefetches of a block and a quarter; a fusion that writes one of its
        # two results to main memory; a copy and a negation in and out; two
        # scalar instructions in and out.
        moved_bytes=block + block // 4 + 5 * block + 16,
    )
